"""What inbound listeners were made of, and what is written into them about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from meshlib_control.model import Node, ObjectKey, World
from meshlib_control.translate import request_authentication
from meshlib_control.translate.authorization import policies, policy_origins
from meshlib_control.translate.build import origin_metadata, struct
from meshlib_control.translate.envoy_filter import envoy_filters_for
from meshlib_control.translate.peer_authentication import PeerRule
from meshlib_control.translate.rate_limit import rate_limits_for

POLICIES: Final = "meshlib.policies"
"""The metadata with the place of every policy that a filter may name: `{policy: {object, file, line, field}}`."""


def inbound_metadata(world: World, node: Node, rule: PeerRule, ports: Sequence[int]) -> dict[str, Any]:
    """The metadata of a listener: what said how peers prove themselves, and where the policies of its filters come from."""
    found: dict[str, Any] = origin_metadata(rule.item, rule.field)["filter_metadata"] if rule.item else {}
    origins = {name: facts for port in ports for name, facts in policy_origins(world, node, port).items()}
    if origins:
        found = {**found, POLICIES: struct(origins)}
    return {"filter_metadata": found} if found else {}


def inbound_sources(world: World, node: Node, rules: Sequence[PeerRule], ports: Sequence[int]) -> Iterator[ObjectKey]:
    """The objects that a listener was made of."""
    yield from (rule.item.key for rule in rules if rule.item)
    yield from (item.key for port in ports for item in policies(world, node, port))
    yield from (item.key for port in ports for item in request_authentication.policies(world, node, port))
    yield from (item.key for item in (*rate_limits_for(world, node), *envoy_filters_for(world, node)))
