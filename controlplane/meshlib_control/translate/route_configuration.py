"""Route configurations (RDS): what happens to requests for one port of one host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshlib.config.messages import message
from meshlib_control import names
from meshlib_control.model import MeshObject, Node, ObjectKey, Resource, World
from meshlib_control.names import ClusterName, parse_cluster_name
from meshlib_control.translate.build import resource
from meshlib_control.translate.grpc.routes import grpc_routes
from meshlib_control.translate.route_match import ANY_PATH
from meshlib_control.translate.scope import service_visible
from meshlib_control.translate.virtual_service import exchange_limits, routes, virtual_service_for

# Ports of these protocols are spoken to in HTTP; others are left to the caller.
HTTP_PROTOCOLS = frozenset({"http", "http2", "grpc", "grpc-web"})
# Istio: a VirtualService for a host that no registry knows affects port 80 only.
UNKNOWN_HOST_PORT = 80


def route_configuration(world: World, node: Node, name: str) -> Resource | None:
    """The route configuration of `outbound|PORT||HOST`; None if no such destination exists for this client."""
    parsed = parse_cluster_name(name)
    if parsed is None or parsed.subset or not destination_exists(world, node, parsed.host, parsed.port):
        return None
    found = host_routes(world, node, parsed)
    body = message("envoy.config.route.v3.RouteConfiguration")(
        name=name,
        virtual_hosts=[
            {
                "name": f"{parsed.host}:{parsed.port}",
                "domains": [*_domains(world, node, parsed), "*"],
                "routes": grpc_routes(found.routes, node) if node.kind == "grpc" else found.routes,
            }
        ],
        validate_clusters={"value": False},
    )
    return resource(name, body, found.sources)


@dataclass(frozen=True, slots=True)
class HostRoutes:
    """What happens to a client's requests for one port of one host; `sources` are the objects that say so."""

    name: ClusterName
    routes: list[dict[str, Any]]
    sources: tuple[ObjectKey, ...]


def host_routes(world: World, node: Node, destination: ClusterName) -> HostRoutes:
    """The routes for a destination that exists."""
    item = virtual_service_for(world, destination.host, node.namespace)
    written = routes(world, node, item, destination.port) if item else []
    sources = tuple(_sources(world, destination.host, item))
    return HostRoutes(destination, written or list(_default_routes(world, destination)), sources)


def destination_exists(world: World, node: Node, host: str, port: int) -> bool:
    """Whether a client's requests to a host and port are the mesh's business."""
    service = world.services.get(host)
    if service is None or not service_visible(world, service, node.namespace):
        return port == UNKNOWN_HOST_PORT and service is None and bool(_routed(world, node, host))
    return any(entry.number == port and entry.protocol in HTTP_PROTOCOLS for entry in service.ports)


def _routed(world: World, node: Node, host: str) -> bool:
    item = virtual_service_for(world, host, node.namespace)
    return item is not None and bool(routes(world, node, item, UNKNOWN_HOST_PORT))


def _default_routes(world: World, parsed: ClusterName) -> Iterator[dict[str, Any]]:
    """Without a VirtualService, or with one that has no route for this client, everything goes to the service (Istio)."""
    if parsed.host in world.services:
        yield {"name": "default", "match": ANY_PATH, "route": {"cluster": str(parsed), **exchange_limits(None)}}


def _domains(world: World, node: Node, parsed: ClusterName) -> Iterator[str]:
    for form in names.authorities(parsed.host, node.namespace, world.domain_suffix):
        yield form
        yield f"{form}:{parsed.port}"


def _sources(world: World, host: str, item: MeshObject | None) -> Iterator[ObjectKey]:
    if item is not None:
        yield item.key
    service = world.services.get(host)
    if service is not None and service.origin is not None:
        yield service.origin
