"""ServiceEntry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib_control.kinds import ServiceEntry, WorkloadEntry
from meshlib_control.mistakes import Mistake, child, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats, workload_entry
from meshlib_control.validate.common import each, export_to, rule, told, workload_selector


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a ServiceEntry."""
    spec: ServiceEntry = found.spec
    given: Mapping[str, Any] = found.raw["spec"]
    yield from workload_selector(spec.workload_selector)
    if "workloadSelector" in given and "endpoints" in given:
        yield Mistake("spec.endpoints", "only one of WorkloadSelector or Endpoints can be set")
    yield from _hosts(spec)
    yield from each(spec.addresses, "spec.addresses", formats.subnet)
    yield from _ports(spec)
    yield from _resolution(spec, given)
    yield from export_to(spec.export_to, found.key.namespace, service_entry=True)


def _hosts(spec: ServiceEntry) -> Iterator[Mistake]:
    for index, host in enumerate(spec.hosts):
        problem = "hostname cannot be wildcard" if host == "*" else formats.wildcard_host(host)
        yield from told(item("spec.hosts", index), problem)
    streams = [port for port in spec.ports if not formats.is_http(port.protocol) and not formats.is_tls(port.protocol)]
    if len(spec.hosts) > 1 and streams and spec.resolution != "NONE":
        yield Mistake("spec.hosts", "multiple hosts provided with non-HTTP, non-TLS ports", "write one ServiceEntry per host")


def _ports(spec: ServiceEntry) -> Iterator[Mistake]:
    numbers: set[int] = set()
    for index, port in enumerate(spec.ports):
        path = item("spec.ports", index)
        if port.number in numbers:
            yield Mistake(f"{path}.number", "port number cannot be duplicated")
        numbers.add(port.number)
        yield from told(f"{path}.name", formats.label(port.name))
        yield from told(f"{path}.protocol", formats.protocol(port.protocol))


def _resolution(spec: ServiceEntry, given: Mapping[str, Any]) -> Iterator[Mistake]:
    if any("/" in address for address in spec.addresses) and spec.resolution not in {"NONE", "STATIC"}:
        yield Mistake("spec.addresses", "CIDR addresses are allowed only for NONE/STATIC resolution types")
    match spec.resolution:
        case "NONE":
            if "endpoints" in given:
                yield rule("spec.endpoints", "NONE mode cannot set endpoints")
        case "STATIC":
            yield from _endpoints(spec, names_allowed=False)
        case "DNS" | "DNS_ROUND_ROBIN":
            yield from _dns(spec)
        case "DYNAMIC_DNS":
            yield from _dynamic_dns(spec)


def _dns(spec: ServiceEntry) -> Iterator[Mistake]:
    if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
        yield rule("spec.endpoints", "DNS_ROUND_ROBIN mode cannot have multiple endpoints")
    if not spec.endpoints and spec.workload_selector is None:
        for index, host in enumerate(spec.hosts):
            problem = formats.fqdn(host)
            advice = "list endpoints, or name a host that can be looked up"
            yield from told(item("spec.hosts", index), problem and f"{problem}, and there are no endpoints", advice)
    yield from _endpoints(spec, names_allowed=True)


def _dynamic_dns(spec: ServiceEntry) -> Iterator[Mistake]:
    for index, host in enumerate(spec.hosts):
        if not host.startswith("*"):
            yield Mistake(item("spec.hosts", index), "host must be wildcarded for resolution DYNAMIC_DNS")
    for name, values in (("addresses", spec.addresses), ("endpoints", spec.endpoints)):
        if values:
            yield Mistake(f"spec.{name}", f"{name} cannot be set for resolution DYNAMIC_DNS")
    for index, port in enumerate(spec.ports):
        if port.protocol.lower() not in {"http", "tls", "grpc", "http2"}:
            path = f"{item('spec.ports', index)}.protocol"
            yield Mistake(path, "only HTTP, TLS, GRPC and HTTP2 are supported for resolution DYNAMIC_DNS")


def _endpoints(spec: ServiceEntry, *, names_allowed: bool) -> Iterator[Mistake]:
    port_names = {port.name for port in spec.ports}
    for index, endpoint in enumerate(spec.endpoints):
        path = item("spec.endpoints", index)
        yield from workload_entry.entry(endpoint, path, names_allowed=names_allowed)
        yield from _endpoint_ports(endpoint, port_names, path)


def _endpoint_ports(endpoint: WorkloadEntry, port_names: set[str], path: str) -> Iterator[Mistake]:
    for name in endpoint.ports:
        if name not in port_names:
            yield Mistake(child(f"{path}.ports", name), f'endpoint port "{name}" is not defined by the service entry')
    if endpoint.address.startswith("unix://") and len(port_names) != 1:
        yield Mistake(f"{path}.address", "exactly 1 service port required for unix endpoints")
