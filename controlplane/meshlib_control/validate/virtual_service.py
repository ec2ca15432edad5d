"""VirtualService."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control import names
from meshlib_control.kinds import VirtualService
from meshlib_control.kinds.virtual_service import L4Match, TlsMatch
from meshlib_control.mistakes import Mistake, child, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats, http_route
from meshlib_control.validate.common import each, export_to, labels, told


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a VirtualService."""
    spec: VirtualService = found.spec
    on_mesh = not spec.gateways or set(spec.gateways) == {"mesh"}
    yield from _delegate(spec)
    yield from http_route.gateway_names(spec.gateways, "spec.gateways")
    yield from _hosts(spec, on_mesh)
    if not (spec.http or spec.tls or spec.tcp):
        yield Mistake("spec", "http, tcp or tls must be provided in virtual service", "write http: with a route:")
    for index, route in enumerate(spec.http):
        yield from http_route.check(route, item("spec.http", index), delegate=not spec.hosts)
    if on_mesh:
        yield from _claims(spec)
    yield from _tls(spec)
    yield from _tcp(spec)
    yield from export_to(spec.export_to, found.key.namespace)


def _delegate(spec: VirtualService) -> Iterator[Mistake]:
    if spec.hosts:
        return
    for name, given in (("gateways", spec.gateways), ("tls", spec.tls), ("tcp", spec.tcp)):
        if given:
            yield Mistake(f"spec.{name}", f"a VirtualService without hosts is a delegate and must have no {name}")


def _hosts(spec: VirtualService, on_mesh: bool) -> Iterator[Mistake]:
    good: list[str] = []
    for index, host in enumerate(spec.hosts):
        place = item("spec.hosts", index)
        problem = "" if formats.is_ip(host) else _host_problem(host, spec)
        if not problem and on_mesh and host == "*":
            problem = "wildcard host * is not allowed for virtual services bound to the mesh gateway"
        if problem:
            yield Mistake(place, problem)
            continue
        other = next((other for other in good if names.covers(other, host) or names.covers(host, other)), None)
        if other is not None:
            yield Mistake(place, f"duplicate hosts in virtual service: {other} & {host}")
        good.append(host)


def _host_problem(host: str, spec: VirtualService) -> str:
    generated_sni = host.startswith("outbound_") and spec.tls and spec.gateways
    return "" if generated_sni else formats.wildcard_host(host)


def _claims(spec: VirtualService) -> Iterator[Mistake]:
    for index, route in enumerate(spec.http):
        for number, match in enumerate(route.match):
            for name, headers in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
                for header in filter(formats.is_claim, headers):
                    place = child(f"spec.http[{index}].match[{number}].{name}", header)
                    yield Mistake(place, "routing by claims of a token is only supported at gateways")


def _tls(spec: VirtualService) -> Iterator[Mistake]:
    for index, route in enumerate(spec.tls):
        path = item("spec.tls", index)
        if not route.match:
            yield Mistake(f"{path}.match", "TLS route must have at least one match condition")
        for number, match in enumerate(route.match):
            place = item(f"{path}.match", number)
            yield from _connection(match, place)
            yield from _sni(match, spec, f"{place}.sniHosts")
        if not route.route:
            yield Mistake(f"{path}.route", "TLS route is required")
        yield from http_route.weighted(route.route, f"{path}.route")


def _sni(match: TlsMatch, spec: VirtualService, path: str) -> Iterator[Mistake]:
    if not match.sni_hosts:
        yield Mistake(path, "TLS match must have at least one SNI host")
    for index, host in enumerate(match.sni_hosts):
        if formats.is_ip(host):
            continue
        problem = _host_problem(host, spec)
        if not problem and not any(names.covers(outer, host) for outer in spec.hosts):
            problem = f'SNI host "{host}" is not a compatible subset of any of the virtual service hosts'
        yield from told(item(path, index), problem)


def _tcp(spec: VirtualService) -> Iterator[Mistake]:
    for index, route in enumerate(spec.tcp):
        path = item("spec.tcp", index)
        for number, match in enumerate(route.match):
            yield from _connection(match, item(f"{path}.match", number))
        if not route.route:
            yield Mistake(f"{path}.route", "TCP route is required")
        yield from http_route.weighted(route.route, f"{path}.route")


def _connection(match: L4Match | TlsMatch, path: str) -> Iterator[Mistake]:
    yield from each(match.destination_subnets, f"{path}.destinationSubnets", formats.subnet)
    if match.port:
        yield from told(f"{path}.port", formats.port(match.port))
    yield from labels(match.source_labels, f"{path}.sourceLabels")
    yield from http_route.gateway_names(match.gateways, f"{path}.gateways")
