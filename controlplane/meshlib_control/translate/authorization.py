"""AuthorizationPolicy: the filters that ask who may do what. Istio: pilot/pkg/security/authz/builder.

CUSTOM comes first. AUDIT only records, then any DENY that holds refuses, then one ALLOW must hold if there is any. Each action
is one filter, with a policy for each rule: `ns[default]-policy[reviews]-rule[0]`.

Rule 1: an annotation `istio.io/dry-run: "true"` makes a policy a shadow: it is evaluated and recorded, and decides nothing.
Rule 2: nobody asks external authorizers yet: what CUSTOM would hand to them is refused (Istio: a provider that is not known).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib_control.kinds import AuthorizationPolicy
from meshlib_control.model import MeshObject, Node, World
from meshlib_control.translate.authorization_rule import Place, Scope, never, rbac_policy
from meshlib_control.translate.build import origin_facts
from meshlib_control.translate.scope import attached
from meshlib_control.translate.trust_domains import trust_domains

DRY_RUN: Final = "istio.io/dry-run"
CUSTOM_PREFIX: Final = "istio-ext-authz-"
REFUSED_CUSTOM: Final = "-deny-due-to-bad-CUSTOM-action"
_TRUE: Final = frozenset({"1", "t", "true"})

_RBAC: Final = "envoy.config.rbac.v3.RBAC"
_HTTP: Final = "envoy.filters.http.rbac"
_NETWORK: Final = "envoy.filters.network.rbac"
_SHADOW_PREFIX: Final = {"ALLOW": "istio_dry_run_allow_", "DENY": "istio_dry_run_deny_"}
# The action of a policy, and the action that Envoy takes for it, in the order of the filters.
_LOCAL: Final = (("AUDIT", "LOG"), ("DENY", "DENY"), ("ALLOW", "ALLOW"))
_CUSTOM: Final = (("CUSTOM", "DENY"),)


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
    """The HTTP filters of CUSTOM."""
    return [*_http_filters(world, node, port, _CUSTOM)]


def authorization_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The HTTP filters of AUDIT, DENY and ALLOW."""
    return [*_http_filters(world, node, port, _LOCAL)]


def network_filters(world: World, node: Node, port: int) -> list[dict[str, Any]]:
    """The filters for connections that are not HTTP: CUSTOM, AUDIT, DENY, ALLOW."""
    kind = message("envoy.extensions.filters.network.rbac.v3.RBAC")
    return [
        {"name": _NETWORK, "typed_config": pack(kind(stat_prefix="tcp.", **found.fields))}
        for found in _rule_sets(world, node, port, Place.TCP, (*_CUSTOM, *_LOCAL))
    ]


def policy_origins(world: World, node: Node, port: int) -> dict[str, Mapping[str, Any]]:
    """Where each policy that a filter may name in its answer was written down."""
    return {
        _named(item, index): origin_facts(item, f"spec.rules[{index}]")
        for item in policies(world, node, port)
        for index in range(max(len(item.spec.rules), 1))
    }


def _http_filters(world: World, node: Node, port: int, actions: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    grpc = node.kind == "grpc"
    kind = message("envoy.extensions.filters.http.rbac.v3.RBAC")
    for found in _rule_sets(world, node, port, Place.GRPC if grpc else Place.HTTP, actions):
        # grpcio obeys these two only, and refuses two filters of one name.
        if not grpc:
            yield {"name": _HTTP, "typed_config": pack(kind(**found.fields))}
        elif found.rules and found.action in {"CUSTOM", "DENY", "ALLOW"}:
            yield {"name": f"{_HTTP}.{found.action}", "typed_config": pack(kind(rules=found.rules))}


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


def _rbac(items: list[MeshObject], taken: str, place: Place, domains: tuple[str, ...]) -> Any | None:
    if not items:
        return None
    found = {name: policy for item in items for name, policy in _rbac_policies(item, taken, place, domains)}
    rbac = message(_RBAC)(action=taken)
    for name, policy in found.items():
        rbac.policies[name].CopyFrom(policy)
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
    return f"{CUSTOM_PREFIX}{item.spec.provider.name}-{name}{REFUSED_CUSTOM}"


def _is_dry_run(item: MeshObject) -> bool:
    return item.annotations.get(DRY_RUN, "").lower() in _TRUE
