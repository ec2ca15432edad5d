"""The HTTP filters of an inbound listener, in Istio's order, for all kinds of client.

    CUSTOM -> tokens of users -> AUDIT -> DENY -> ALLOW -> rate limits -> router; EnvoyFilters put theirs where they say

Each topic's file gives its own filters; what grpcio cannot do, it leaves out or makes stricter.
"""

from __future__ import annotations

from typing import Any

from meshlib_control.model import Node, World
from meshlib_control.translate.authorization import authorization_filters, custom_filters
from meshlib_control.translate.envoy_filter import patched_filters
from meshlib_control.translate.listener import router_filter
from meshlib_control.translate.rate_limit import rate_limit_filters
from meshlib_control.translate.request_authentication import token_filters


def inbound_http_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The filters that a request to a port meets, the router last.

    Args:
        node: whose port it is.
        port: where the workload listens.
    """
    filters = [
        *custom_filters(world, node, port),
        *token_filters(world, node, port),
        *authorization_filters(world, node, port),
        *rate_limit_filters(world, node),
        router_filter(),
    ]
    return patched_filters(filters, world, node, port)
