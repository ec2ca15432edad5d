"""Clusters that only an Envoy has, and what Envoy's defaults would get wrong in the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import duration, resource
from meshlib_control.translate.envoy import names
from meshlib_control.translate.envoy.filters import socket_address
from meshlib_control.translate.envoy_filter import patched_clusters

HTTP2_PROTOCOLS: Final = frozenset({"http2", "grpc", "grpc-web"})
UNLIMITED: Final = 2**32 - 1
CONNECT_TIMEOUT: Final = 10.0  # seconds; Istio's default

# Istio: traffic from this address was let in by Envoy already and is not redirected to it again.
_LET_IN: Final = "127.0.0.6"
_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster_names(world: World, node: Node) -> Iterator[str]:
    """The clusters of an Envoy that are nobody's service."""
    yield names.PASSTHROUGH
    yield names.BLACK_HOLE
    yield names.INBOUND_PASSTHROUGH
    yield from dict.fromkeys(names.inbound_cluster(entry.target_port) for entry in node.registrations)
    yield from patched_clusters(world, node)


def own_cluster(world: World, node: Node, name: str) -> Resource | None:
    """One of the clusters that are nobody's service; None for another name."""
    if name in _FIXED:
        return resource(name, _cluster(name, **_FIXED[name]()))
    added = patched_clusters(world, node).get(name)
    if added is not None:
        return resource(name, added)
    port = names.inbound_cluster_port(name)
    entry = next((entry for entry in node.registrations if entry.target_port == port), None)
    if entry is None:
        return None
    endpoint = {"endpoint": {"address": socket_address(names.LOOPBACK, entry.local_port or entry.target_port)}}
    body = _cluster(
        name,
        type="STATIC",
        load_assignment={"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        typed_extension_protocol_options=protocol_options(entry.protocol.lower()),
    )
    return resource(name, body)


def _cluster(name: str, **facts: Any) -> Any:
    limits = circuit_breakers()
    return message("envoy.config.cluster.v3.Cluster")(
        name=name, connect_timeout=duration(CONNECT_TIMEOUT), circuit_breakers=limits, **facts
    )


def _black_hole() -> dict[str, Any]:
    return {"type": "STATIC"}


def _passthrough() -> dict[str, Any]:
    # A host that redirects nobody's traffic tells no protocol either: upstream speaks as downstream did.
    return {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "typed_extension_protocol_options": _as_downstream()}


def _inbound_passthrough() -> dict[str, Any]:
    return {**_passthrough(), "upstream_bind_config": {"source_address": {"address": _LET_IN, "port_value": 0}}}


_FIXED = {
    names.BLACK_HOLE: _black_hole,
    names.PASSTHROUGH: _passthrough,
    names.INBOUND_PASSTHROUGH: _inbound_passthrough,
}


def circuit_breakers() -> dict[str, Any]:
    """No limits but those that somebody sets (Istio). Envoy's own are 1,024 requests and 3 retries under way."""
    unlimited = {"value": UNLIMITED}
    kinds = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [{**dict.fromkeys(kinds, unlimited), "track_remaining": True}]}


def protocol_options(
    protocol: str, *, common: Mapping[str, Any] | None = None, outlier_detection: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How to speak to a port of a protocol: HTTP/2 where its name says so, HTTP/1.1 otherwise.

    Args:
        common: of both, `core.v3.HttpProtocolOptions`.
        outlier_detection: what counts as an error; None: statuses from 500.
    """
    more = {"common_http_protocol_options": common or None, "outlier_detection": outlier_detection}
    given = {name: value for name, value in more.items() if value is not None}
    if protocol in HTTP2_PROTOCOLS:
        return _options(explicit_http_config={"http2_protocol_options": {}}, **given)
    return _options(explicit_http_config={"http_protocol_options": {}}, **given) if given else {}


def _as_downstream() -> dict[str, Any]:
    return _options(use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}})


def _options(**choice: Any) -> dict[str, Any]:
    return {_OPTIONS: pack(message(_OPTIONS)(**choice))}
