"""Sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshlib_control.kinds import Sidecar
from meshlib_control.kinds.gateway import EgressListener, IngressListener, OutboundTrafficPolicy, SidecarPort
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.names import parse_host_port
from meshlib_control.validate import formats
from meshlib_control.validate.common import destination, told, workload_selector
from meshlib_control.validate.gateway import server_tls
from meshlib_control.validate.traffic_policy import connection_pool

_LOCAL: Final = frozenset({"", "127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 - compared, not bound


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a Sidecar."""
    spec: Sidecar = found.spec
    yield from workload_selector(spec.workload_selector)
    if not (spec.egress or spec.ingress or spec.outbound_traffic_policy or spec.inbound_connection_pool):
        yield Mistake("spec", "empty configuration provided", "write egress:, ingress: or outboundTrafficPolicy:")
    numbers: set[int] = set()
    for index, listener in enumerate(spec.ingress):
        yield from _ingress(listener, item("spec.ingress", index))
        if listener.port.number in numbers:
            yield Mistake(f"{item('spec.ingress', index)}.port.number", "ports on IP bound listeners must be unique")
        numbers.add(listener.port.number)
    yield from connection_pool(spec.inbound_connection_pool, "spec.inboundConnectionPool")
    yield from _egress(spec.egress)
    yield from _outbound(spec.outbound_traffic_policy)


def _ingress(listener: IngressListener, path: str) -> Iterator[Mistake]:
    yield from _port(listener.port, f"{path}.port")
    yield from told(f"{path}.port.number", formats.port(listener.port.number))
    if listener.bind:
        yield from told(f"{path}.bind", formats.ip(listener.bind))
    yield from _default_endpoint(listener.default_endpoint, f"{path}.defaultEndpoint")
    if listener.tls is not None:
        yield from _ingress_tls(listener, f"{path}.tls")
    yield from connection_pool(listener.connection_pool, f"{path}.connectionPool")


def _ingress_tls(listener: IngressListener, path: str) -> Iterator[Mistake]:
    assert listener.tls is not None
    unsupported = {
        "subjectAltNames": listener.tls.subject_alt_names,
        "httpsRedirect": listener.tls.https_redirect,
        "credentialName": listener.tls.credential_name,
        "credentialNames": listener.tls.credential_names,
        "tlsCertificates": listener.tls.tls_certificates,
    }
    for name, value in unsupported.items():
        if value:
            yield Mistake(f"{path}.{name}", f"{name} is not supported in a Sidecar")
    if listener.tls.mode in {"ISTIO_MUTUAL", "AUTO_PASSTHROUGH"}:
        yield Mistake(f"{path}.mode", f"cannot set mode to {listener.tls.mode} in sidecar ingress tls")
    if not formats.is_tls(listener.port.protocol):
        yield Mistake(path, "server cannot have TLS settings for non HTTPS/TLS ports")
    yield from server_tls(listener.tls, path)


def _port(port: SidecarPort, path: str) -> Iterator[Mistake]:
    if port.name:
        yield from told(f"{path}.name", formats.label(port.name))
    yield from told(f"{path}.protocol", formats.protocol(port.protocol))
    if port.target_port:
        yield Mistake(f"{path}.targetPort", "targetPort has no impact on Sidecars")


def _default_endpoint(endpoint: str, path: str) -> Iterator[Mistake]:
    if endpoint.startswith("unix://"):
        yield from told(path, formats.unix_address(endpoint.removeprefix("unix://")))
    elif endpoint:
        place = parse_host_port(f"[::]{endpoint}" if endpoint.startswith(":") else endpoint)
        if place is None or place[0] not in _LOCAL:
            yield Mistake(path, "must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or unix://PATH")


def _egress(listeners: tuple[EgressListener, ...]) -> Iterator[Mistake]:
    numbers: set[int] = set()
    for index, listener in enumerate(listeners):
        path = item("spec.egress", index)
        if listener.port is None:
            if index < len(listeners) - 1:
                yield Mistake(path, "the egress listener without port must be the last one")
        else:
            yield from _port(listener.port, f"{path}.port")
            yield from _egress_bind(listener, listener.port, path)
            if listener.port.number and listener.port.number in numbers:
                yield Mistake(f"{path}.port.number", "ports on IP bound listeners must be unique")
            numbers.add(listener.port.number)
        if not listener.hosts:
            yield Mistake(f"{path}.hosts", "egress listener must contain at least one host")
        for number, host in enumerate(listener.hosts):
            yield from told(item(f"{path}.hosts", number), _scoped_host(host))


def _egress_bind(listener: EgressListener, port: SidecarPort, path: str) -> Iterator[Mistake]:
    if port.number:
        yield from told(f"{path}.port.number", formats.port(port.number))
        if listener.bind:
            yield from told(f"{path}.bind", formats.ip(listener.bind))
        return
    if not listener.bind.startswith("unix://"):
        yield Mistake(f"{path}.bind", "ports with 0 value must have a unix domain socket bind address")
    else:
        yield from told(f"{path}.bind", formats.unix_address(listener.bind.removeprefix("unix://")))
    if listener.capture_mode == "IPTABLES":
        yield Mistake(f"{path}.captureMode", "must be DEFAULT or NONE for unix domain socket listeners")


def _scoped_host(host: str) -> str:
    namespace, slash, name = host.partition("/")
    if not slash:
        return f'the host "{host}" must be of the form namespace/dnsName'
    meant = namespace.removeprefix("~")
    if meant not in {"", "*", "."} and formats.label(meant):
        return f'invalid namespace value "{namespace}" in sidecar'
    return formats.qualified_host(name)


def _outbound(policy: OutboundTrafficPolicy | None) -> Iterator[Mistake]:
    if policy is None or policy.egress_proxy is None:
        return
    path = "spec.outboundTrafficPolicy.egressProxy"
    if policy.mode != "ALLOW_ANY":
        yield Mistake(path, "egressProxy must be set only with ALLOW_ANY")
    if policy.egress_proxy.port is None:
        yield Mistake(f"{path}.port", "Required value")
    yield from told(f"{path}.host", formats.fqdn(policy.egress_proxy.host))
    yield from destination(policy.egress_proxy, path)
