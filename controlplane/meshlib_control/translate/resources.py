"""Which translation makes which type of resource."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from meshlib.config.messages import type_url
from meshlib_control.model import Node, Resource, World
from meshlib_control.names import INBOUND_PREFIX, ClusterName, inbound_name
from meshlib_control.translate.cluster import cluster
from meshlib_control.translate.destination_rule import rules_for
from meshlib_control.translate.endpoint import assignment
from meshlib_control.translate.envoy import listeners as envoy_listeners
from meshlib_control.translate.envoy.clusters import cluster_names, own_cluster
from meshlib_control.translate.envoy.routes import route_configuration as envoy_routes
from meshlib_control.translate.envoy.secrets import secret
from meshlib_control.translate.inbound import inbound_listener
from meshlib_control.translate.listener import outbound_listener
from meshlib_control.translate.route_configuration import HTTP_PROTOCOLS, route_configuration
from meshlib_control.translate.scope import service_visible

ENVOY: Final = "envoy"  # Node.kind

_Translation = Callable[[World, Node, str], Resource | None]

CLUSTER: Final = type_url("envoy.config.cluster.v3.Cluster")
ENDPOINT: Final = type_url("envoy.config.endpoint.v3.ClusterLoadAssignment")
LISTENER: Final = type_url("envoy.config.listener.v3.Listener")
ROUTE: Final = type_url("envoy.config.route.v3.RouteConfiguration")
SECRET: Final = type_url("envoy.extensions.transport_sockets.tls.v3.Secret")


def _listener(world: World, node: Node, name: str) -> Resource | None:
    if node.kind == ENVOY:
        return envoy_listeners.listener(world, node, name)
    return (inbound_listener if name.startswith(INBOUND_PREFIX) else outbound_listener)(world, node, name)


def _routes(world: World, node: Node, name: str) -> Resource | None:
    return (envoy_routes if node.kind == ENVOY else route_configuration)(world, node, name)


def _cluster(world: World, node: Node, name: str) -> Resource | None:
    own = own_cluster(world, node, name) if node.kind == ENVOY else None
    return own or cluster(world, node, name)


TYPES: Final[Mapping[str, _Translation]] = {
    CLUSTER: _cluster,
    ENDPOINT: assignment,
    LISTENER: _listener,
    ROUTE: _routes,
    SECRET: secret,
}
"""The types that can be translated, by type_url."""


def translate(world: World, node: Node, type_url: str, name: str) -> Resource | None:
    """A resource as a node sees it; None if it does not exist for this node, or if the type is unknown."""
    translation = TYPES.get(type_url)
    return translation(world, node, name) if translation else None


def wildcard_names(world: World, node: Node, type_url: str) -> tuple[str, ...]:
    """What a wildcard subscription means: all clusters, all listeners. Other types have no wildcard (xDS)."""
    if type_url == CLUSTER:
        own = cluster_names(world, node) if node.kind == ENVOY else ()
        return (*own, *_clusters(world, node))
    if type_url == LISTENER and node.kind == ENVOY:
        return tuple(envoy_listeners.listener_names(world, node))
    if type_url == LISTENER:
        return tuple(_listeners(world, node))
    return ()


def _clusters(world: World, node: Node) -> Iterator[str]:
    for service in world.services.values():
        if service_visible(world, service, node.namespace):
            subsets = ["", *(placed.subset.name for placed in rules_for(world, node, service).subsets)]
            yield from (
                str(ClusterName(port.number, subset, service.hostname)) for port in service.ports for subset in subsets
            )


def _listeners(world: World, node: Node) -> Iterator[str]:
    for service in world.services.values():
        if service_visible(world, service, node.namespace):
            yield from (f"{service.hostname}:{port.number}" for port in service.ports if port.protocol in HTTP_PROTOCOLS)
    yield from (inbound_name(node.address, entry.target_port) for entry in node.registrations)
