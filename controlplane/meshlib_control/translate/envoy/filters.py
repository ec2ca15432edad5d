"""Network filters and listener filters, and Istio's settings of the HTTP connection manager."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshlib.config.messages import message, pack
from meshlib_control.model import World
from meshlib_control.translate.build import duration
from meshlib_control.translate.path_normalization import path_normalization

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def connection_manager(world: World, stat_prefix: str, http_filters: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    """The filter that speaks HTTP.

    Args:
        http_filters: in order, the router last.
        facts: `rds` or `route_config`, and what differs between inbound and outbound.
    """
    manager = message(_MANAGER)(
        stat_prefix=stat_prefix,
        http_filters=http_filters,
        # The caller is the program itself or a peer; addresses in x-forwarded-for are kept as they come (Istio).
        use_remote_address={"value": False},
        **path_normalization(world),
        stream_idle_timeout=duration(0),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        **facts,
    )
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": pack(manager)}


def tcp_proxy(cluster: str) -> dict[str, Any]:
    """The filter that hands bytes on to a cluster."""
    proxy = message("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy")(stat_prefix=cluster, cluster=cluster)
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": pack(proxy)}


def tls_inspector() -> dict[str, Any]:
    """Reads the first bytes of a connection: TLS or not, and which ALPN."""
    inspector = message("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector")()
    return {"name": "envoy.filters.listener.tls_inspector", "typed_config": pack(inspector)}


def original_destination() -> dict[str, Any]:
    """Finds out where a redirected connection was meant to go."""
    original = message("envoy.extensions.filters.listener.original_dst.v3.OriginalDst")()
    return {"name": "envoy.filters.listener.original_dst", "typed_config": pack(original)}


def socket_address(address: str, port: int) -> dict[str, Any]:
    """An address to listen on."""
    return {"socket_address": {"address": address, "port_value": port}}
