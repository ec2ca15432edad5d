"""The traffic policy of a DestinationRule, and the connection pool that Sidecars share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from meshlib_control.kinds.destination_rule import (
    ClientTls,
    ConnectionPool,
    ConsistentHash,
    Failover,
    HttpPool,
    LoadBalancer,
    LocalityLoadBalancer,
    Maglev,
    OutlierDetection,
    PortTrafficPolicy,
    TrafficPolicy,
    Tunnel,
)
from meshlib_control.mistakes import Mistake, item
from meshlib_control.validate import formats
from meshlib_control.validate.common import told, whole_percent
from meshlib_control.validate.localities import localities

_MAGLEV_LIMIT: Final = 5_000_011
_TOPOLOGY: Final = frozenset({"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"})


def check(policy: TrafficPolicy | None, path: str) -> Iterator[Mistake]:
    """Everything wrong with a policy."""
    if policy is None:
        return
    if policy == TrafficPolicy():
        yield Mistake(path, "traffic policy must have at least one field")
        return
    if policy.tunnel is not None and policy.proxy_protocol is not None:
        yield Mistake(f"{path}.proxyProtocol", "tunnel and proxyProtocol must not be set together")
    yield from _parts(policy, path)
    for index, entry in enumerate(policy.port_level_settings):
        yield from _port(entry, item(f"{path}.portLevelSettings", index))
    yield from _tunnel(policy.tunnel, f"{path}.tunnel")


def _port(entry: PortTrafficPolicy, path: str) -> Iterator[Mistake]:
    if entry.port is None:
        yield Mistake(f"{path}.port", "Required value", "write port: with a number:")
    else:
        yield from told(f"{path}.port.number", formats.port(entry.port.number))
    if entry == PortTrafficPolicy(port=entry.port):
        yield Mistake(path, "port traffic policy must have at least one field")
    yield from _parts(entry, path)


def _parts(policy: TrafficPolicy | PortTrafficPolicy, path: str) -> Iterator[Mistake]:
    yield from _outliers(policy.outlier_detection, f"{path}.outlierDetection")
    yield from connection_pool(policy.connection_pool, f"{path}.connectionPool")
    yield from _balancer(policy.load_balancer, f"{path}.loadBalancer")
    yield from _tls(policy.tls, f"{path}.tls")


def _tunnel(tunnel: Tunnel | None, path: str) -> Iterator[Mistake]:
    if tunnel is None:
        return
    if tunnel.protocol not in {"", "CONNECT", "POST"}:
        yield Mistake(f"{path}.protocol", "tunnel protocol must be CONNECT or POST")
    if not formats.is_ip(tunnel.target_host):
        yield from told(f"{path}.targetHost", formats.fqdn(tunnel.target_host))
    yield from told(f"{path}.targetPort", formats.port(tunnel.target_port))


def _outliers(outliers: OutlierDetection | None, path: str) -> Iterator[Mistake]:
    if outliers is None:
        return
    if outliers.consecutive_local_origin_failures and not outliers.split_external_local_origin_errors:
        problem = "has no effect while splitExternalLocalOriginErrors is false"
        yield Mistake(f"{path}.consecutiveLocalOriginFailures", problem, "set splitExternalLocalOriginErrors: true")
    yield from whole_percent(outliers.max_ejection_percent, f"{path}.maxEjectionPercent")
    yield from whole_percent(outliers.min_health_percent, f"{path}.minHealthPercent")


def connection_pool(pool: ConnectionPool | None, path: str) -> Iterator[Mistake]:
    """Limits are not negative and do not contradict each other."""
    if pool is None:
        return
    if pool.http is None and pool.tcp is None:
        yield Mistake(path, "connection pool must have at least one field")
    if pool.http is not None:
        yield from _http_pool(pool.http, f"{path}.http")
    if pool.tcp is not None and pool.tcp.max_connections < 0:
        yield Mistake(f"{path}.tcp.maxConnections", "must not be negative")


def _http_pool(pool: HttpPool, path: str) -> Iterator[Mistake]:
    limits = {
        "http1MaxPendingRequests": pool.http1_max_pending_requests,
        "http2MaxRequests": pool.http2_max_requests,
        "maxRequestsPerConnection": pool.max_requests_per_connection,
        "maxRetries": pool.max_retries,
        "maxConcurrentStreams": pool.max_concurrent_streams,
    }
    for name, limit in limits.items():
        if limit < 0:
            yield Mistake(f"{path}.{name}", "must not be negative")
    if pool.h2_upgrade_policy == "UPGRADE" and pool.use_client_protocol:
        yield Mistake(f"{path}.useClientProtocol", "must not be true when h2UpgradePolicy is UPGRADE")
    keepalive = pool.http2_keep_alive
    for name in ("interval", "timeout") if keepalive is not None else ():
        if getattr(keepalive, name) is None:
            yield Mistake(f"{path}.http2KeepAlive.{name}", "Required value")


def _balancer(balancer: LoadBalancer | None, path: str) -> Iterator[Mistake]:
    if balancer is None:
        return
    if balancer.consistent_hash is not None:
        yield from _hash(balancer.consistent_hash, f"{path}.consistentHash")
    if balancer.locality_lb_setting is not None and balancer.zone_aware_lb_setting is not None:
        yield Mistake(f"{path}.zoneAwareLbSetting", "only one of localityLbSetting and zoneAwareLbSetting can be set")
    if balancer.locality_lb_setting is not None:
        yield from _locality(balancer.locality_lb_setting, f"{path}.localityLbSetting")
    zone = balancer.zone_aware_lb_setting
    if zone is not None:
        yield from _failovers(zone.failover, f"{path}.zoneAwareLbSetting.failover")
        if _TOPOLOGY & set(zone.failover_priority):
            yield Mistake(f"{path}.zoneAwareLbSetting.failoverPriority", "must not use topology labels")
    if balancer.warmup is not None and balancer.warmup.aggression == 0:
        yield Mistake(f"{path}.warmup.aggression", "Invalid value: 0: aggression should be greater than 0")


def _hash(hashing: ConsistentHash, path: str) -> Iterator[Mistake]:
    cookie = hashing.http_cookie
    if cookie is not None:
        if not cookie.name:
            yield Mistake(f"{path}.httpCookie.name", "name required for HttpCookie")
        attributes = [attribute.name for attribute in cookie.attributes]
        for index, name in enumerate(attributes):
            if not name or name in attributes[:index]:
                problem = f"duplicate cookie attribute name: {name}" if name else "cookie attribute name cannot be empty"
                yield Mistake(f"{item(f'{path}.httpCookie.attributes', index)}.name", problem)
    if hashing.minimum_ring_size and (hashing.ring_hash or hashing.maglev):
        yield Mistake(f"{path}.minimumRingSize", "only one of minimumRingSize or maglev/ringHash can be specified")
    if hashing.maglev is not None:
        yield from _maglev(hashing.maglev, f"{path}.maglev.tableSize")


def _maglev(maglev: Maglev, path: str) -> Iterator[Mistake]:
    size = maglev.table_size
    if size == 0:
        yield Mistake(path, "tableSize must be set for maglev")
    elif size >= _MAGLEV_LIMIT:
        yield Mistake(path, f"tableSize must be less than {_MAGLEV_LIMIT} for maglev")
    elif not _is_prime(size):
        yield Mistake(path, "tableSize must be a prime number for maglev", "the default is 65537")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, math.isqrt(number) + 1))


def _locality(setting: LocalityLoadBalancer, path: str) -> Iterator[Mistake]:
    if setting.distribute and setting.failover:
        yield Mistake(f"{path}.failover", "can not simultaneously specify 'distribute' and 'failover'")
    if setting.failover and _TOPOLOGY & set(setting.failover_priority):
        yield Mistake(f"{path}.failoverPriority", "can not use topology labels together with failover")
    for index, share in enumerate(setting.distribute):
        place = item(f"{path}.distribute", index)
        if any(not 0 < weight <= 100 for weight in share.to.values()):
            yield Mistake(f"{place}.to", "locality weight must be in range [1, 100]")
        elif sum(share.to.values()) != 100:
            yield Mistake(f"{place}.to", f"total locality weight {sum(share.to.values())} != 100")
        yield from localities(share.to, f"{place}.to")
    yield from localities([share.from_ for share in setting.distribute], f"{path}.distribute")
    yield from _failovers(setting.failover, f"{path}.failover")


def _failovers(failovers: tuple[Failover, ...], path: str) -> Iterator[Mistake]:
    for index, failover in enumerate(failovers):
        place = item(path, index)
        if failover.from_ == failover.to:
            yield Mistake(place, "failover must name two different regions")
        if "/" in failover.from_ + failover.to:
            yield Mistake(place, "failover names regions only, without zones")
        if "*" in failover.from_ + failover.to:
            yield Mistake(place, "failover regions must not contain *")


def _tls(tls: ClientTls | None, path: str) -> Iterator[Mistake]:
    if tls is None:
        return
    if tls.insecure_skip_verify and tls.mode in {"SIMPLE", "MUTUAL"}:
        checked = tls.ca_certificates or tls.subject_alt_names or (tls.mode == "SIMPLE" and tls.credential_name)
        if checked:
            problem = "cannot specify caCertificates, credentialName or subjectAltNames together with insecureSkipVerify"
            yield Mistake(f"{path}.insecureSkipVerify", problem)
    files = tls.client_certificate or tls.private_key or tls.ca_certificates or tls.ca_crl
    if tls.credential_name and tls.mode in {"SIMPLE", "MUTUAL"}:
        if files:
            yield Mistake(f"{path}.credentialName", "cannot be set together with certificates in files")
        return
    if tls.mode == "MUTUAL":
        for name, value in (("clientCertificate", tls.client_certificate), ("privateKey", tls.private_key)):
            if not value:
                yield Mistake(f"{path}.{name}", "required for mutual tls")
