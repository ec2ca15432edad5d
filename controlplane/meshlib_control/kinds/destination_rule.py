"""DestinationRule (networking.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from meshlib_control.kinds.base import Duration, DurationOrZero, Int32, Percentage, Spec, UInt32, UInt64
from meshlib_control.kinds.common import LabelSelector, PortSelector

LoadBalancing = Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]
ClientTlsMode = Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]


class TcpKeepalive(Spec, frozen=True):
    """Probes of idle connections; what is absent is the operating system's default."""

    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


class TcpPool(Spec, frozen=True):
    """Limits on connections."""

    max_connections: Int32 = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: DurationOrZero | None = None


class Http2Keepalive(Spec, frozen=True):
    """HTTP/2 pings."""

    interval: Duration | None = None
    timeout: Duration | None = None


class HttpPool(Spec, frozen=True):
    """Limits on requests; 0 means not set."""

    http1_max_pending_requests: Int32 = 0
    http2_max_requests: Int32 = 0
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: Int32 = 0
    http2_keep_alive: Http2Keepalive | None = None


class ConnectionPool(Spec, frozen=True):
    """The circuit breaker's limits."""

    tcp: TcpPool | None = None
    http: HttpPool | None = None


class CookieAttribute(Spec, frozen=True):
    """An attribute of the generated cookie."""

    name: str
    value: str = ""


class HttpCookie(Spec, frozen=True):
    """A cookie that decides the endpoint; without `ttl` it is not generated, with 0 it lasts for the session."""

    name: str
    path: str = ""
    ttl: DurationOrZero | None = None
    attributes: tuple[CookieAttribute, ...] = ()


class RingHash(Spec, frozen=True):
    """Ring hash; 0 is the default of 1024."""

    minimum_ring_size: UInt64 = 0


class Maglev(Spec, frozen=True):
    """Maglev; 0 is the default of 65537."""

    table_size: UInt64 = 0


class ConsistentHash(Spec, frozen=True):
    """Sticky balancing by a property of the request."""

    one_of: ClassVar = (
        ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"),
        ("ringHash", "maglev"),
    )

    http_header_name: str | None = None
    http_cookie: HttpCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    minimum_ring_size: UInt64 = 0
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None


class Distribute(Spec, frozen=True):
    """Traffic from a locality spread over others by weight."""

    from_: str = msgspec.field(default="", name="from")
    to: Mapping[str, UInt32] = {}


class Failover(Spec, frozen=True):
    """Traffic from a region that goes to another one when the first fails."""

    from_: str = msgspec.field(default="", name="from")
    to: str = ""


class LocalityLoadBalancer(Spec, frozen=True):
    """Balancing that prefers near endpoints."""

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class ZoneAwareLoadBalancer(Spec, frozen=True):
    """Balancing that keeps traffic inside the zone."""

    enabled: bool | None = None
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: Annotated[int, Meta(ge=1)] | None = None


class Warmup(Spec, frozen=True):
    """New endpoints get their share little by little."""

    duration: Duration
    minimum_percent: Percentage | None = None
    aggression: Annotated[float, Meta(ge=0)] | None = None


class LoadBalancer(Spec, frozen=True):
    """How an endpoint is chosen."""

    one_of: ClassVar = (("simple", "consistentHash"),)

    simple: LoadBalancing | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLoadBalancer | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None
    warmup_duration_secs: Duration | None = None
    warmup: Warmup | None = None


class OutlierDetection(Spec, frozen=True):
    """Endpoints that fail are left out for a while."""

    split_external_local_origin_errors: bool = False
    consecutive_errors: Int32 = 0
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = msgspec.field(default=None, name="consecutive5xxErrors")
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Int32 = 0
    min_health_percent: Int32 = 0
    outlier_detection_http_error_codes: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()


class ClientTls(Spec, frozen=True):
    """TLS that the client starts."""

    mode: ClientTlsMode = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None
    ca_crl: str = ""


class PortTrafficPolicy(Spec, frozen=True):
    """The policy of one port; it replaces the general one as a whole."""

    port: PortSelector | None = None
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


class Tunnel(Spec, frozen=True):
    """Connections are made through an HTTP proxy."""

    target_host: str
    target_port: UInt32
    protocol: str = ""


class ProxyProtocol(Spec, frozen=True):
    """A PROXY header before the first byte."""

    version: Literal["V1", "V2"] = "V1"


class RetryBudget(Spec, frozen=True):
    """Retries as a share of the active requests."""

    percent: Percentage | None = None
    min_retry_concurrency: UInt32 = 0
    budget_interval: DurationOrZero | None = None


class TrafficPolicy(Spec, frozen=True):
    """What holds for traffic to a host, after routing."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    port_level_settings: Annotated[tuple[PortTrafficPolicy, ...], Meta(max_length=4096)] = ()
    tunnel: Tunnel | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None


class Subset(Spec, frozen=True):
    """A named part of a service's endpoints."""

    name: str
    labels: Mapping[str, str] = {}
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Spec, frozen=True):
    """Policies and subsets of a host."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: LabelSelector | None = None
