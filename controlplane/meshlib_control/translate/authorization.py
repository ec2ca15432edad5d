"""AuthorizationPolicy: the filters that ask who may do what. Istio: pilot/pkg/security/authz/builder.

CUSTOM comes first. AUDIT only records, then any DENY that holds refuses, then one ALLOW must hold if there is any. Each action
is one filter, with a policy for each rule: `ns[default]-policy[reviews]-rule[0]`.

Rule 1: an annotation `istio.io/dry-run: "true"` makes a policy a shadow: it is evaluated and recorded, and decides nothing.
Rule 2: policies of CUSTOM are shadow rules that mark what the filter behind them asks the provider about. What cannot be asked
        is refused: a provider that is not known, two for one workload, any of grpcio. A dry run of CUSTOM asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib_control.kinds import AuthorizationPolicy
from meshlib_control.kinds.extension_provider import ExtAuthzGrpc
from meshlib_control.model import MeshObject, Node, World
from meshlib_control.translate.authorization_rule import Place, Scope, never, rbac_policy
from meshlib_control.translate.build import origin_facts
from meshlib_control.translate.external_authorization import MARK, STAT_PREFIX, authorizer, http_filter, network_filter
from meshlib_control.translate.scope import attached
from meshlib_control.translate.trust_domains import trust_domains

DRY_RUN: Final = "istio.io/dry-run"
REFUSED_CUSTOM: Final = "-deny-due-to-bad-CUSTOM-action"
_TRUE: Final = frozenset({"1", "t", "true"})

_RBAC: Final = "envoy.config.rbac.v3.RBAC"
_HTTP: Final = "envoy.filters.http.rbac"
_NETWORK: Final = "envoy.filters.network.rbac"
_SHADOW_PREFIX: Final = {"ALLOW": "istio_dry_run_allow_", "DENY": "istio_dry_run_deny_"}
# The action of a policy, and the action that Envoy takes for it, in the order of the filters.
_LOCAL: Final = (("AUDIT", "LOG"), ("DENY", "DENY"), ("ALLOW", "ALLOW"))


@dataclass(frozen=True, slots=True)
class _RuleSet:
    """One action: what decides, and what is only recorded. None: no policy of that kind, which is not the same as no rule."""

    action: str
    rules: Any | None
    shadow: Any | None

    @property
    def fields(self) -> dict[str, Any]:
        """What the filters for HTTP and for TCP have in common."""
        shadow = {"shadow_rules": self.shadow, "shadow_rules_stat_prefix": _SHADOW_PREFIX.get(self.action, "")}
        return {**({"rules": self.rules} if self.rules else {}), **(shadow if self.shadow else {})}


@dataclass(frozen=True, slots=True)
class _CustomSet:
    """What CUSTOM hands to one provider.

    Args:
        asked: the provider; None: there is nobody to ask, and what the rules match is refused.
    """

    provider: str
    rules: Any
    asked: ExtAuthzGrpc | None

    @property
    def fields(self) -> dict[str, Any]:
        """Of a filter that marks, or of one that refuses."""
        if self.asked is None:
            return {"rules": self.rules}
        return {"shadow_rules": self.rules, "shadow_rules_stat_prefix": STAT_PREFIX}


def policies(world: World, node: Node, port: int) -> list[MeshObject]:
    """The AuthorizationPolicies for a workload's port: of the root namespace, then of its own."""
    found = [item for item in world.of_kind("AuthorizationPolicy") if isinstance(item.spec, AuthorizationPolicy)]
    return [
        item
        for namespace in dict.fromkeys((world.root_namespace, node.namespace))
        for item in found
        if item.key.namespace == namespace and attached(item, node, port)
    ]


def custom_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The HTTP filters of CUSTOM: for each provider one that marks and one that asks, or one that refuses."""
    place = Place.GRPC if node.kind == "grpc" else Place.HTTP
    kind = message("envoy.extensions.filters.http.rbac.v3.RBAC")
    name = f"{_HTTP}.CUSTOM" if place is Place.GRPC else _HTTP
    found: list[dict[str, Any]] = []
    for one in _custom_sets(world, node, port, place):
        found.append({"name": name, "typed_config": pack(kind(**one.fields))})
        if one.asked is not None:
            found.append(http_filter(world, one.provider, one.asked))
    return found


def authorization_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The HTTP filters of AUDIT, DENY and ALLOW."""
    return [*_http_filters(world, node, port, _LOCAL)]


def network_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The filters for connections that are not HTTP: CUSTOM, AUDIT, DENY, ALLOW."""
    kind = message("envoy.extensions.filters.network.rbac.v3.RBAC")
    found: list[dict[str, Any]] = []
    for one in _custom_sets(world, node, port, Place.TCP):
        asking = None if one.asked is None else network_filter(world, one.provider, one.asked)
        if one.asked is None or asking is not None:
            found.append({"name": _NETWORK, "typed_config": pack(kind(stat_prefix="tcp.", **one.fields))})
            found += [asking] if asking is not None else []
    local = _rule_sets(world, node, port, Place.TCP, _LOCAL)
    return [*found, *({"name": _NETWORK, "typed_config": pack(kind(stat_prefix="tcp.", **one.fields))} for one in local)]


def policy_origins(world: World, node: Node, port: int) -> dict[str, Mapping[str, Any]]:
    """Where each policy that a filter may name in its answer was written down."""
    return {
        name: origin_facts(item, f"spec.rules[{index}]")
        for item in policies(world, node, port)
        for index in range(max(len(item.spec.rules), 1))
        for name in _names(item, index)
    }


def _http_filters(world: World, node: Node, port: int, actions: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    grpc = node.kind == "grpc"
    kind = message("envoy.extensions.filters.http.rbac.v3.RBAC")
    for found in _rule_sets(world, node, port, Place.GRPC if grpc else Place.HTTP, actions):
        # grpcio obeys these two only, and refuses two filters of one name.
        if not grpc:
            yield {"name": _HTTP, "typed_config": pack(kind(**found.fields))}
        elif found.rules and found.action in {"DENY", "ALLOW"}:
            yield {"name": f"{_HTTP}.{found.action}", "typed_config": pack(kind(rules=found.rules))}


def _custom_sets(world: World, node: Node, port: int, place: Place) -> Iterator[_CustomSet]:
    mine = [item for item in policies(world, node, port) if item.spec.action == "CUSTOM" and not _is_dry_run(item)]
    providers = sorted({item.spec.provider.name for item in mine})
    domains = trust_domains(world)
    for provider in providers:
        # Istio: several providers for one workload are a mistake, unless a feature flag says otherwise.
        asked = authorizer(world, provider) if len(providers) == 1 and place is not Place.GRPC else None
        items = [item for item in mine if item.spec.provider.name == provider]
        yield _CustomSet(provider, _rbac(items, "DENY", place, domains, REFUSED_CUSTOM if asked is None else ""), asked)


def _rule_sets(world: World, node: Node, port: int, place: Place, actions: Iterable[tuple[str, str]]) -> Iterator[_RuleSet]:
    selected = policies(world, node, port)
    domains = trust_domains(world)
    for action, taken in actions:
        mine = [item for item in selected if item.spec.action == action]
        rules, shadow = (
            _rbac([item for item in mine if _is_dry_run(item) is dry], taken, place, domains) for dry in (False, True)
        )
        if rules or shadow:
            yield _RuleSet(action, rules, shadow)


def _rbac(items: list[MeshObject], taken: str, place: Place, domains: tuple[str, ...], suffix: str = "") -> Any | None:
    if not items:
        return None
    found = {name: policy for item in items for name, policy in _rbac_policies(item, taken, place, domains)}
    rbac = message(_RBAC)(action=taken)
    for name, policy in found.items():
        rbac.policies[f"{name}{suffix}"].CopyFrom(policy)
    return rbac


def _rbac_policies(item: MeshObject, taken: str, place: Place, domains: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not item.spec.rules:
        yield _named(item, 0), never()
    scope = Scope(place, item.key.namespace, domains)
    for index, rule in enumerate(item.spec.rules):
        policy = rbac_policy(rule, scope, allow=taken == "ALLOW")
        if policy is not None:
            yield _named(item, index), policy


def _named(item: MeshObject, index: int) -> str:
    name = f"ns[{item.key.namespace}]-policy[{item.key.name}]-rule[{index}]"
    if item.spec.action != "CUSTOM":
        return name
    return f"{MARK}-{item.spec.provider.name}-{name}"


def _names(item: MeshObject, index: int) -> tuple[str, ...]:
    """All names that a refusal may have for a rule."""
    name = _named(item, index)
    return (name, f"{name}{REFUSED_CUSTOM}") if item.spec.action == "CUSTOM" else (name,)


def _is_dry_run(item: MeshObject) -> bool:
    return item.annotations.get(DRY_RUN, "").lower() in _TRUE
