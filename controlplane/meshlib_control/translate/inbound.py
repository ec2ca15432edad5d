"""Inbound listeners (LDS): what a server's port accepts.

STRICT: mutual TLS only. PERMISSIVE: both, told apart by the first bytes. DISABLE: plain text only. grpcio cannot do both on
one port, so PERMISSIVE is plain text there, as in Istio's grpcgen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlib.config.messages import message, pack
from meshlib.config.model import PeerMode
from meshlib_control.model import Node, Resource, World
from meshlib_control.names import parse_inbound_name
from meshlib_control.translate.build import resource
from meshlib_control.translate.envoy_filter import patched_routes
from meshlib_control.translate.http_filters import inbound_http_filters
from meshlib_control.translate.inbound_origin import inbound_metadata, inbound_sources
from meshlib_control.translate.path_normalization import path_normalization
from meshlib_control.translate.peer_authentication import peer_rule
from meshlib_control.translate.route_match import ANY_PATH
from meshlib_control.translate.tls import downstream_socket


def inbound_listener(world: World, node: Node, name: str) -> Resource | None:
    """The policy of a port of the asking server; None for another name."""
    parsed = parse_inbound_name(name)
    if parsed is None:
        return None
    address, port = parsed
    rule = peer_rule(world, node.namespace, node.labels, port)
    body = message("envoy.config.listener.v3.Listener")(
        name=name,
        address={"socket_address": {"address": address, "port_value": port}},
        filter_chains=list(_chains(world, node, rule.mode, _connection_manager(world, node, name, port))),
        traffic_direction="INBOUND",
        metadata=inbound_metadata(world, node, rule, [port]),
        # Reads the first bytes, so that Envoy can choose between the chains.
        listener_filters=[_tls_inspector()] if rule.mode is PeerMode.PERMISSIVE and node.kind == "envoy" else [],
    )
    return resource(name, body, inbound_sources(world, node, [rule], [port]))


def _chains(world: World, node: Node, mode: PeerMode, manager: dict[str, Any]) -> Iterator[dict[str, Any]]:
    grpc = node.kind == "grpc"
    filters = [manager]
    permissive = mode is PeerMode.PERMISSIVE and not grpc
    if mode is PeerMode.STRICT or permissive:
        match = {"filter_chain_match": {"transport_protocol": "tls"}} if permissive else {}
        yield {"name": "mtls", "filters": filters, "transport_socket": downstream_socket(world, grpc), **match}
    if mode is not PeerMode.STRICT:
        match = {"filter_chain_match": {"transport_protocol": "raw_buffer"}} if permissive else {}
        yield {"name": "plain", "filters": filters, **match}


def _connection_manager(world: World, node: Node, name: str, port: int) -> dict[str, Any]:
    everything = {"match": ANY_PATH, "non_forwarding_action": {}}
    host: dict[str, Any] = {"name": "inbound", "domains": ["*"], "routes": [everything]}
    entry = next((entry for entry in node.registrations if entry.target_port == port), None)
    if entry is not None:
        host = patched_routes(host, world, node, entry)
    manager = message("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")(
        stat_prefix="inbound",
        route_config={"name": name, "virtual_hosts": [host]},
        http_filters=inbound_http_filters(world, node, port),
        **path_normalization(world),
    )
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": pack(manager)}


def _tls_inspector() -> dict[str, Any]:
    inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    any_message = message("google.protobuf.Any")(type_url=f"type.googleapis.com/{inspector}")
    return {"name": "envoy.filters.listener.tls_inspector", "typed_config": any_message}
