"""Outbound listeners (LDS): a destination as a client asks for it, and the route configuration that decides."""

from __future__ import annotations

from typing import Any

from meshlib.config.messages import message, pack
from meshlib_control import names
from meshlib_control.model import Node, Resource, World
from meshlib_control.names import ClusterName, parse_host_port
from meshlib_control.translate.build import ADS, resource
from meshlib_control.translate.fault import FILTER_NAME
from meshlib_control.translate.route_configuration import destination_exists


def outbound_listener(world: World, node: Node, name: str) -> Resource | None:
    """The listener of `host:port` as asked; None if that is no destination of the mesh: the client goes there itself."""
    host = destination_host(world, node, name)
    if host is None:
        return None
    parsed = parse_host_port(name)
    assert parsed is not None
    manager = message("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")(
        stat_prefix=name,
        rds={"config_source": ADS, "route_config_name": str(ClusterName(parsed[1], "", host))},
        http_filters=[fault_filter(), router_filter()],
    )
    body = message("envoy.config.listener.v3.Listener")(name=name, api_listener={"api_listener": pack(manager)})
    service = world.services.get(host)
    return resource(name, body, (service.origin,) if service and service.origin else ())


def destination_host(world: World, node: Node, name: str) -> str | None:
    """The full host that a client means by `host:port`; None if the mesh knows no such destination."""
    parsed = parse_host_port(name)
    if parsed is None:
        return None
    host, port = parsed
    for candidate in names.candidates(host, node.namespace, world.domain_suffix):
        known = names.most_specific_known(candidate, world.services) or candidate
        if destination_exists(world, node, known, port):
            return known
    return None


def fault_filter() -> dict[str, Any]:
    """The filter that the faults of routes configure."""
    return {"name": FILTER_NAME, "typed_config": pack(message("envoy.extensions.filters.http.fault.v3.HTTPFault")())}


def router_filter() -> dict[str, Any]:
    """The last filter of every chain."""
    return {
        "name": "envoy.filters.http.router",
        "typed_config": pack(message("envoy.extensions.filters.http.router.v3.Router")()),
    }
