"""RequestAuthentication: the filter that checks the tokens of users. Istio: pilot/pkg/security/authn/policy_applier.go.

Every rule that is attached to a workload is a provider, in the order of their issuers. A request without a token is let
through; whether one is needed is AuthorizationPolicy's to say. With several rules, a request passes

    any of   the tokens of one provider are all good
             for each provider: its tokens are all good, or it has none

the first for providers that look at the same place, where each would refuse the other's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib.identity.jwk import read_keys
from meshlib_control.key_set import NOBODYS_KEYS, key_source
from meshlib_control.kinds import RequestAuthentication
from meshlib_control.kinds.security import JwtRule
from meshlib_control.model import MeshObject, Node, World
from meshlib_control.translate.route_match import ANY_PATH
from meshlib_control.translate.scope import attached

NAME: Final = "envoy.filters.http.jwt_authn"
PAYLOAD: Final = "payload"
"""The name of the claims in the request's metadata, where AuthorizationPolicy finds them."""

_FILTER: Final = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_WORDS: Final = ("permission", "scope")  # claims that are always read as a list of words
_GRPC: Final = "grpc"  # Node.kind; grpcio knows no such filter

Requirement = dict[str, Any]


def policies(world: World, node: Node, port: int) -> list[MeshObject]:
    """The RequestAuthentications for a workload's port: of its own namespace, then of the root namespace."""
    found = [item for item in world.of_kind("RequestAuthentication") if isinstance(item.spec, RequestAuthentication)]
    return [
        item
        for namespace in dict.fromkeys((node.namespace, world.root_namespace))
        for item in found
        if item.key.namespace == namespace and attached(item, node, port)
    ]


def token_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The filter, if a rule asks for it."""
    rules = sorted(
        (rule for item in policies(world, node, port) for rule in item.spec.jwt_rules), key=lambda rule: rule.issuer
    )
    if not rules or node.kind == _GRPC:
        return []
    named = {f"origins-{index}": rule for index, rule in enumerate(rules)}
    authentication = message(_FILTER)(
        providers={name: _provider(world, rule) for name, rule in named.items()},
        rules=[{"match": ANY_PATH, "requires": _requirement(tuple(named))}],
        bypass_cors_preflight=True,
    )
    return [{"name": NAME, "typed_config": pack(authentication)}]


def _requirement(names: Sequence[str]) -> Requirement:
    each = [{"provider_name": name} for name in names]
    tolerant = [_any(provider, {"allow_missing": {}}) for provider in each]
    return tolerant[0] if len(names) == 1 else _any(*each, {"requires_all": {"requirements": tolerant}})


def _any(*requirements: Requirement) -> Requirement:
    return {"requires_any": {"requirements": requirements}}


def _provider(world: World, rule: JwtRule) -> Any:
    return message("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider")(
        issuer=rule.issuer,
        audiences=rule.audiences,
        local_jwks={"inline_string": _keys(world, rule)},
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        from_headers=[{"name": one.name, "value_prefix": one.prefix} for one in rule.from_headers],
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        claim_to_headers=[{"header_name": one.header, "claim_name": one.claim} for one in rule.output_claim_to_headers],
        payload_in_metadata=PAYLOAD,
        normalize_payload_in_metadata={"space_delimited_claims": sorted({*_WORDS, *rule.space_delimited_claims})},
    )


def _keys(world: World, rule: JwtRule) -> str:
    """The rule's own keys, or what the control plane fetched.

    Until it has, or if none of them can be used: keys with which nobody signs, so that every token is refused. Envoy would
    refuse the whole listener, and go on with what it had before.
    """
    keys = rule.jwks or world.key_sets.get(key_source(rule), "")
    return keys if read_keys(keys) else NOBODYS_KEYS
