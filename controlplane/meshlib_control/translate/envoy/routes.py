"""Route configurations of an Envoy: all services of a port in one, `9080`; or all services of all ports, `http_proxy`.

A service's virtual host holds the same routes as other clients get in a route configuration of their own. A request for a host
that nobody knows goes where the program meant it to go (ALLOW_ANY).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from meshlib.config.messages import message
from meshlib_control.kinds import VirtualService
from meshlib_control.model import Node, Resource, World
from meshlib_control.names import ClusterName, authorities, resolve
from meshlib_control.translate.build import duration, resource
from meshlib_control.translate.envoy import names
from meshlib_control.translate.route_configuration import (
    HTTP_PROTOCOLS,
    UNKNOWN_HOST_PORT,
    HostRoutes,
    destination_exists,
    host_routes,
)
from meshlib_control.translate.route_match import ANY_PATH
from meshlib_control.translate.scope import service_visible


def http_ports(world: World, node: Node) -> list[int]:
    """The ports that some service of this client's sight speaks HTTP on."""
    return sorted({port for _, port in _destinations(world, node)})


def route_configuration(world: World, node: Node, name: str) -> Resource | None:
    """`9080` or `http_proxy`; None for another name."""
    if name == names.HTTP_PROXY:
        return _configuration(world, node, name, _destinations(world, node), every_port=True)
    if not (name.isascii() and name.isdigit()):
        return None
    # A port without a service as well: a listener may be there already, and waits for its routes.
    meant = [(host, port) for host, port in _destinations(world, node) if port == int(name)]
    return _configuration(world, node, name, meant, every_port=False)


def _configuration(
    world: World, node: Node, name: str, destinations: Iterable[tuple[str, int]], *, every_port: bool
) -> Resource:
    hosts = [host_routes(world, node, ClusterName(port, "", host)) for host, port in destinations]
    body = message("envoy.config.route.v3.RouteConfiguration")(
        name=name,
        virtual_hosts=[*_virtual_hosts(world, node, hosts, every_port=every_port), _allow_any()],
        validate_clusters={"value": False},
        # Istio: where the port is the listener's, `reviews:9080` and `reviews` are one.
        ignore_port_in_host_matching=not every_port,
    )
    return resource(name, body, (source for host in hosts for source in host.sources))


def _destinations(world: World, node: Node) -> Iterator[tuple[str, int]]:
    for service in world.services.values():
        if service_visible(world, service, node.namespace):
            yield from ((service.hostname, port.number) for port in service.ports if port.protocol in HTTP_PROTOCOLS)
    for host in _routed_hosts(world):
        if host not in world.services and destination_exists(world, node, host, UNKNOWN_HOST_PORT):
            yield host, UNKNOWN_HOST_PORT


def _routed_hosts(world: World) -> Iterator[str]:
    """Hosts that VirtualServices name, each once; `*` would be every host there is."""
    specs = [(item, item.spec) for item in world.of_kind("VirtualService") if isinstance(item.spec, VirtualService)]
    hosts = (resolve(host, item.key.namespace, world.domain_suffix) for item, spec in specs for host in spec.hosts)
    yield from (host for host in dict.fromkeys(hosts) if host != "*")


def _virtual_hosts(world: World, node: Node, hosts: list[HostRoutes], *, every_port: bool) -> Iterator[dict[str, Any]]:
    """Envoy rejects a domain that two virtual hosts have: a full name is its owner's, a short form the first one's."""
    taken = {domain for host in hosts for domain in _spelled(host.name.host, host.name.port, every_port=every_port)}
    for host in hosts:
        own = list(_spelled(host.name.host, host.name.port, every_port=every_port))
        short = [
            spelling
            for form in authorities(host.name.host, node.namespace, world.domain_suffix)[1:]
            for spelling in _spelled(form, host.name.port, every_port=every_port)
            if spelling not in taken
        ]
        taken.update(short)
        yield {
            "name": f"{host.name.host}:{host.name.port}",
            "domains": [*own, *short],
            "routes": host.routes,
            "include_request_attempt_count": True,
        }


def _spelled(host: str, port: int, *, every_port: bool) -> Iterator[str]:
    """How requests name a host: with its port where that decides, and without where the port is clear."""
    if every_port:
        yield f"{host}:{port}"
    if not every_port or port == UNKNOWN_HOST_PORT:
        yield host


def _allow_any() -> dict[str, Any]:
    route = {"name": "allow_any", "match": ANY_PATH, "route": {"cluster": names.PASSTHROUGH, "timeout": duration(0)}}
    return {"name": "allow_any", "domains": ["*"], "routes": [route], "include_request_attempt_count": True}
