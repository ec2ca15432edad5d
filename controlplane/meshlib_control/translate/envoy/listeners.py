"""Outbound listeners: where programs beside an Envoy connect to.

Redirected traffic arrives at virtualOutbound, which looks for the listener of the port that was meant and lets everything else
pass (outboundTrafficPolicy ALLOW_ANY). Without redirection (INTERCEPTION_MODE NONE) each port is listened on at loopback.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlib.config.messages import message
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import ADS, resource
from meshlib_control.translate.envoy import filters, names
from meshlib_control.translate.envoy.inbound import inbound_listener_names, inbound_listener_of
from meshlib_control.translate.envoy.routes import http_ports
from meshlib_control.translate.listener import fault_filter, router_filter


def listener_names(world: World, node: Node) -> Iterator[str]:
    """All listeners of an Envoy."""
    proxying = node.proxying
    if proxying.transparent:
        yield names.VIRTUAL_OUTBOUND
    address = _outbound_address(node)
    yield from (names.listener_name(address, port) for port in _outbound_ports(world, node))
    if proxying.http_proxy_port is not None:
        yield names.HTTP_PROXY
    yield from inbound_listener_names(node)


def listener(world: World, node: Node, name: str) -> Resource | None:
    """A listener by name; None if this Envoy has none of that name."""
    if names.is_own(name):
        return inbound_listener_of(world, node, name)
    if name == names.VIRTUAL_OUTBOUND:
        return _virtual_outbound() if node.proxying.transparent else None
    if name == names.HTTP_PROXY:
        return _http_proxy(world, node)
    port = names.outbound_port(name, _outbound_address(node))
    known = port is not None and port in _outbound_ports(world, node)
    return _http_listener(world, node, name, port) if port is not None and known else None


def _outbound_address(node: Node) -> str:
    return names.ANY_ADDRESS if node.proxying.transparent else names.LOOPBACK


def _outbound_ports(world: World, node: Node) -> list[int]:
    explicit = node.proxying.explicit_ports
    if not node.proxying.transparent and explicit is not None:
        return [port for port, _ in explicit]
    return http_ports(world, node)


def _virtual_outbound() -> Resource:
    body = message("envoy.config.listener.v3.Listener")(
        name=names.VIRTUAL_OUTBOUND,
        address=filters.socket_address(names.ANY_ADDRESS, names.OUTBOUND_PORT),
        use_original_dst={"value": True},
        traffic_direction="OUTBOUND",
        filter_chains=[
            {
                # Whoever connects to the port itself would be handed on to it for ever.
                "name": "virtualOutbound-blackhole",
                "filter_chain_match": {"destination_port": {"value": names.OUTBOUND_PORT}},
                "filters": [filters.tcp_proxy(names.BLACK_HOLE)],
            },
            {"name": "virtualOutbound-catchall-tcp", "filters": [filters.tcp_proxy(names.PASSTHROUGH)]},
        ],
    )
    return resource(names.VIRTUAL_OUTBOUND, body)


def _http_listener(world: World, node: Node, name: str, port: int) -> Resource:
    transparent = node.proxying.transparent
    manager = _manager(world, name, str(port))
    body = message("envoy.config.listener.v3.Listener")(
        name=name,
        address=filters.socket_address(_outbound_address(node), port if transparent else _explicit_port(node, port)),
        traffic_direction="OUTBOUND",
        **(_redirected(manager) if transparent else {"filter_chains": [{"filters": [manager]}]}),
    )
    return resource(name, body)


def _redirected(manager: dict[str, Any]) -> dict[str, Any]:
    """TLS that the program speaks itself is no HTTP to us, whatever the port: it passes untouched."""
    return {
        "bind_to_port": {"value": False},
        "listener_filters": [filters.tls_inspector()],
        "filter_chains": [{"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": [manager]}],
        "default_filter_chain": {"name": "PassthroughFilterChain", "filters": [filters.tcp_proxy(names.PASSTHROUGH)]},
    }


def _explicit_port(node: Node, port: int) -> int:
    return dict(node.proxying.explicit_ports or ()).get(port, port)


def _http_proxy(world: World, node: Node) -> Resource | None:
    port = node.proxying.http_proxy_port
    if port is None:
        return None
    body = message("envoy.config.listener.v3.Listener")(
        name=names.HTTP_PROXY,
        address=filters.socket_address(names.LOOPBACK, port),
        traffic_direction="OUTBOUND",
        filter_chains=[{"filters": [_manager(world, names.HTTP_PROXY, names.HTTP_PROXY)]}],
    )
    return resource(names.HTTP_PROXY, body)


def _manager(world: World, listener_name: str, routes: str) -> dict[str, Any]:
    return filters.connection_manager(
        world,
        f"outbound_{listener_name}",
        [fault_filter(), router_filter()],
        rds={"config_source": ADS, "route_config_name": routes},
    )
