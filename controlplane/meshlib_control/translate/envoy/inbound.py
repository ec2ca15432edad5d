"""Inbound listeners: what connections to the program beside an Envoy must show, port by port.

STRICT: mutual TLS only. PERMISSIVE: both, told apart by the first bytes. DISABLE: plain text only.
Redirected traffic arrives at virtualInbound, for whatever port it was meant; without redirection each port has a listener.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from meshlib.config.messages import message
from meshlib.config.model import PeerMode
from meshlib_control.model import Node, Registration, Resource, World
from meshlib_control.names import service_hostname
from meshlib_control.translate.authorization import network_filters
from meshlib_control.translate.build import duration, resource
from meshlib_control.translate.envoy import filters, names
from meshlib_control.translate.envoy.clusters import HTTP2_PROTOCOLS
from meshlib_control.translate.envoy.tls import downstream_socket
from meshlib_control.translate.envoy_filter import patched_routes
from meshlib_control.translate.http_filters import inbound_http_filters
from meshlib_control.translate.inbound_origin import inbound_metadata, inbound_sources
from meshlib_control.translate.peer_authentication import peer_rule
from meshlib_control.translate.route_configuration import HTTP_PROTOCOLS
from meshlib_control.translate.route_match import ANY_PATH

# How clients of the mesh announce themselves; where plain TLS may come too, they are told apart by it (Istio). `h2` is
# grpcio's, which can say nothing else.
MESH_ALPN: Final = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2", "h2")

# Istio: only what was never sent is tried again, so nothing can happen twice; gRPC clients see to their own retries.
INBOUND_RETRIES: Final = {"retry_on": "reset-before-request", "num_retries": {"value": 2}}
_NO_RETRIES_FOR: Final = frozenset({"grpc", "grpc-web"})
NO_PORT: Final = 0

Chain = dict[str, Any]


def inbound_listener_names(node: Node) -> Iterator[str]:
    """The inbound listeners of an Envoy."""
    if node.proxying.transparent:
        yield names.VIRTUAL_INBOUND
    else:
        yield from dict.fromkeys(names.inbound_name(node.address, entry.target_port) for entry in node.registrations)


def inbound_listener_of(world: World, node: Node, name: str) -> Resource | None:
    """An inbound listener by name; None if this Envoy has none of that name."""
    if node.proxying.transparent:
        return _virtual_inbound(world, node) if name == names.VIRTUAL_INBOUND else None
    for entry in node.registrations:
        if name == names.inbound_name(node.address, entry.target_port):
            return _port_listener(world, node, entry, name)
    return None


def _port_listener(world: World, node: Node, entry: Registration, name: str) -> Resource:
    rule = peer_rule(world, node.namespace, node.labels, entry.target_port)
    body = message("envoy.config.listener.v3.Listener")(
        name=name,
        address=filters.socket_address(node.address, entry.target_port),
        traffic_direction="INBOUND",
        listener_filters=[filters.tls_inspector()],
        filter_chains=list(_chains(world, node, entry, rule.mode)),
        metadata=inbound_metadata(world, node, rule, [entry.target_port]),
    )
    return resource(name, body, inbound_sources(world, node, [rule], [entry.target_port]))


def _virtual_inbound(world: World, node: Node) -> Resource:
    ports = list({entry.target_port: entry for entry in node.registrations}.values())
    rules = [peer_rule(world, node.namespace, node.labels, entry.target_port) for entry in ports]
    everything_else = peer_rule(world, node.namespace, node.labels, NO_PORT)
    numbers = [NO_PORT, *(entry.target_port for entry in ports)]
    chains = [_black_hole()]
    for entry, rule in zip(ports, rules, strict=True):
        chains += [_for_port(chain, entry.target_port) for chain in _chains(world, node, entry, rule.mode)]
    chains += _passing(world, node, everything_else.mode)
    body = message("envoy.config.listener.v3.Listener")(
        name=names.VIRTUAL_INBOUND,
        address=filters.socket_address(names.ANY_ADDRESS, names.INBOUND_PORT),
        traffic_direction="INBOUND",
        listener_filters=[filters.original_destination(), filters.tls_inspector()],
        # Istio: a silent client of a protocol where the server speaks first is no reason to close.
        listener_filters_timeout=duration(0),
        filter_chains=chains,
        metadata=inbound_metadata(world, node, everything_else, numbers),
    )
    return resource(names.VIRTUAL_INBOUND, body, inbound_sources(world, node, [everything_else, *rules], numbers))


def _black_hole() -> Chain:
    """Whoever connects to the port itself would be handed on to it for ever."""
    return _for_port(
        {"name": "virtualInbound-blackhole", "filters": [filters.tcp_proxy(names.BLACK_HOLE)]}, names.INBOUND_PORT
    )


def _for_port(chain: Chain, port: int) -> Chain:
    return {**chain, "filter_chain_match": {**chain.get("filter_chain_match", {}), "destination_port": {"value": port}}}


def _chains(world: World, node: Node, entry: Registration, mode: PeerMode) -> Iterator[Chain]:
    name = names.listener_name(names.ANY_ADDRESS, entry.target_port)
    chain = {"name": name, "filters": _filters(world, node, entry, name)}
    yield from _accepting(world, node, chain, mode, tls_is_the_programs=entry.protocol.lower() not in HTTP_PROTOCOLS)


def _passing(world: World, node: Node, mode: PeerMode) -> Iterator[Chain]:
    """Ports that nobody registered: the program may listen there all the same."""
    passing = [*network_filters(world, node, NO_PORT), filters.tcp_proxy(names.INBOUND_PASSTHROUGH)]
    chain = {"name": names.VIRTUAL_INBOUND, "filters": passing}
    yield from _accepting(world, node, chain, mode, tls_is_the_programs=True)


def _accepting(world: World, node: Node, chain: Chain, mode: PeerMode, *, tls_is_the_programs: bool) -> Iterator[Chain]:
    """The same chain for each kind of connection that a mode accepts.

    Args:
        tls_is_the_programs: TLS that is not the mesh's is handed on as it is.
    """
    secured = {**chain, "transport_socket": downstream_socket(world, node)}
    if mode is PeerMode.STRICT:
        yield {**secured, "filter_chain_match": {"transport_protocol": "tls"}}
        return
    if mode is PeerMode.PERMISSIVE:
        yield {**secured, "filter_chain_match": {"transport_protocol": "tls", "application_protocols": MESH_ALPN}}
    if tls_is_the_programs:
        yield {**chain, "filter_chain_match": {"transport_protocol": "tls"}}
    yield {**chain, "filter_chain_match": {"transport_protocol": "raw_buffer"}}


def _filters(world: World, node: Node, entry: Registration, name: str) -> list[dict[str, Any]]:
    cluster = names.inbound_cluster(entry.target_port)
    if entry.protocol.lower() not in HTTP_PROTOCOLS:
        return [*network_filters(world, node, entry.target_port), filters.tcp_proxy(cluster)]
    manager = filters.connection_manager(
        world,
        f"inbound_{name}",
        inbound_http_filters(world, node, entry.target_port),
        route_config=_routes(world, node, entry, cluster),
        server_name="istio-envoy",
        # Istio: a peer's own statement is appended to what it forwards; without mutual TLS Envoy removes the header.
        forward_client_cert_details="APPEND_FORWARD",
        set_current_client_cert_details={"subject": {"value": True}, "uri": True, "dns": True},
    )
    return [manager]


def _routes(world: World, node: Node, entry: Registration, cluster: str) -> dict[str, Any]:
    host = service_hostname(entry.service, node.namespace, world.domain_suffix)
    action: dict[str, Any] = {"cluster": cluster, "timeout": duration(0)}
    protocol = entry.protocol.lower()
    if protocol not in _NO_RETRIES_FOR:
        action["retry_policy"] = INBOUND_RETRIES
    if protocol in HTTP2_PROTOCOLS:
        action["max_stream_duration"] = {"max_stream_duration": duration(0), "grpc_timeout_header_max": duration(0)}
    route = {
        "name": "default",
        "match": ANY_PATH,
        "route": action,
        "decorator": {"operation": f"{host}:{entry.port}/*"},
    }
    virtual_host = {"name": f"inbound|http|{entry.port}", "domains": ["*"], "routes": [route]}
    return {
        "name": cluster,
        "virtual_hosts": [patched_routes(virtual_host, world, node, entry)],
        "validate_clusters": {"value": False},
    }
