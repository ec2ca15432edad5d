"""AuthorizationPolicies as filters: whose they are, in which order, under which names, for each kind of client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshlib.config.messages import unpack
from meshlib_control.kinds import MeshConfig
from meshlib_control.kinds.schema import build
from meshlib_control.model import Node, Proxying, Registration, World
from meshlib_control.names import inbound_name
from meshlib_control.translate import translate
from meshlib_control.translate.resources import LISTENER
from tests.support.worlds import decoded, listener, server, world

PORT = 7001
NAME = inbound_name("127.0.0.1", PORT)
KINDS = ("library", "grpc", "envoy")


def policy(name: str = "a", spec: str = "rules: [{}]", namespace: str = "default", dry: str = "") -> str:
    notes = f', annotations: {{istio.io/dry-run: "{dry}"}}' if dry else ""
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}{notes}}}\nspec: {{{spec}}}\n---\n"
    )


def node(kind: str = "library", protocol: str = "http", **changes: Any) -> Node:
    proxying = Proxying(transparent=False, identity_file="/certs/default.json")
    registrations = (Registration("reviews", 9080, PORT, protocol),)
    return server(port=PORT, kind=kind, **{"proxying": proxying, "registrations": registrations, **changes})


def chains(found: World, asking: Node) -> list[Any]:
    """The filter chains of the port's listener."""
    own = "virtualInbound" if asking.proxying.transparent else f"inbound_127.0.0.1_{PORT}"
    name = own if asking.kind == "envoy" else NAME
    body = listener(found, name, asking)
    assert body is not None
    return list(body.filter_chains)


def http_filters(*texts: str, asking: Node | None = None) -> list[tuple[str, Any]]:
    """The HTTP filters before the router, which is last, in every chain alike."""
    asking = asking or node()
    found = [
        [(one.name, unpack(one.typed_config)) for one in unpack(chain.filters[-1].typed_config).http_filters]
        for chain in chains(world(*texts, nodes=[asking]), asking)
    ]
    assert all(one == found[0] for one in found)
    assert found[0][-1][0] == "envoy.filters.http.router"
    return found[0][:-1]


def told(filters: list[tuple[str, Any]]) -> list[tuple[str, list[str], list[str]]]:
    """Action, policies and shadow policies of each filter."""
    return [(_action(one), sorted(one.rules.policies), sorted(one.shadow_rules.policies)) for _, one in filters]


def _action(rbac: Any) -> str:
    rules = rbac.rules if rbac.HasField("rules") else rbac.shadow_rules
    return str(rules.DESCRIPTOR.fields_by_name["action"].enum_type.values_by_number[rules.action].name)


def selected(*texts: str, asking: Node | None = None) -> list[str]:
    """The names of the policies that decide."""
    return [
        name.split("policy[")[1].split("]")[0] for _, names, _ in told(http_filters(*texts, asking=asking)) for name in names
    ]


# Who is meant


@pytest.mark.parametrize("kind", KINDS)
def test_without_policies_there_is_no_filter(kind: str) -> None:
    """Everybody may, as in Istio."""
    assert http_filters(asking=node(kind)) == []


def test_policies_of_the_root_namespace_and_of_the_workloads_own_are_meant() -> None:
    """All of them, not only the nearest."""
    texts = [policy("mesh", namespace="istio-system"), policy("home"), policy("elsewhere", namespace="other")]
    assert sorted(selected(*texts)) == ["home", "mesh"]


def test_a_selector_picks_workloads_by_all_of_its_labels() -> None:
    """In the root namespace, too, where it picks workloads of any namespace."""
    some = "selector: {matchLabels: {app: reviews, version: v1}}, rules: [{}]"
    others = "selector: {matchLabels: {app: reviews, version: v2}}, rules: [{}]"
    texts = [policy("a", some), policy("b", others), policy("c", some, "istio-system"), policy("d", others, "istio-system")]
    assert sorted(selected(*texts)) == ["a", "c"]


def test_a_policy_for_a_service_is_obeyed_by_who_serves_it() -> None:
    """At the port where it does; Istio leaves it to a waypoint, which is not there. Gateways have nobody to obey."""
    entries = (Registration("reviews", 9080, PORT), Registration("admin", 9081, 7002))
    asking = node(registrations=entries)
    texts = [
        policy("mine", "targetRefs: [{kind: Service, name: reviews}], rules: [{}]"),
        policy("one", 'targetRef: {group: "", kind: Service, name: reviews}, rules: [{}]'),
        policy("port", "targetRefs: [{kind: Service, name: admin}], rules: [{}]"),
        policy("gateway", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: reviews}], rules: [{}]"),
        policy("root", "targetRefs: [{kind: Service, name: reviews}], rules: [{}]", "istio-system"),
    ]
    assert sorted(selected(*texts, asking=asking)) == ["mine", "one"]


# The filters


def test_actions_are_filters_in_istios_order() -> None:
    """Each rule is a policy with Istio's name, which is what a refusal tells."""
    texts = [
        policy("allow", "rules: [{}, {}]"),
        policy("audit", "action: AUDIT, rules: [{}]"),
        policy("deny", "action: DENY, rules: [{}]", "istio-system"),
        policy("custom", "action: CUSTOM, provider: {name: opa}, rules: [{}]"),
    ]
    found = http_filters(*texts)
    assert {name for name, _ in found} == {"envoy.filters.http.rbac"}
    assert told(found) == [
        ("DENY", ["istio-ext-authz-opa-ns[default]-policy[custom]-rule[0]-deny-due-to-bad-CUSTOM-action"], []),
        ("LOG", ["ns[default]-policy[audit]-rule[0]"], []),
        ("DENY", ["ns[istio-system]-policy[deny]-rule[0]"], []),
        ("ALLOW", ["ns[default]-policy[allow]-rule[0]", "ns[default]-policy[allow]-rule[1]"], []),
    ]


@pytest.mark.parametrize("spec", ["", "action: ALLOW", "rules: []"])
def test_an_allow_without_rules_allows_nothing(spec: str) -> None:
    """Its policy is there and never holds."""
    ((_, found),) = http_filters(policy(spec=spec))
    never = found.rules.policies["ns[default]-policy[a]-rule[0]"]
    assert found.rules.action == 0
    assert never.permissions[0].not_rule.any
    assert never.principals[0].not_id.any


def test_a_dry_run_is_recorded_and_decides_nothing() -> None:
    """With Istio's prefixes of statistics and metadata, beside what decides."""
    texts = [policy("a", dry="true"), policy("b", dry="false"), policy("c", "action: DENY, rules: [{}]", dry="1")]
    found = http_filters(*texts)
    assert told(found) == [
        ("DENY", [], ["ns[default]-policy[c]-rule[0]"]),
        ("ALLOW", ["ns[default]-policy[b]-rule[0]"], ["ns[default]-policy[a]-rule[0]"]),
    ]
    assert [one.shadow_rules_stat_prefix for _, one in found] == ["istio_dry_run_deny_", "istio_dry_run_allow_"]
    assert not found[0][1].HasField("rules")


def test_a_rule_that_falls_away_leaves_the_filter() -> None:
    """No rule left of an ALLOW means that nobody may."""
    ((_, found),) = http_filters(policy(spec="rules: [{when: [{key: connection.sni, values: [a]}]}]"), asking=node("grpc"))
    assert found.HasField("rules")
    assert not found.rules.policies


def test_grpcio_gets_what_it_obeys() -> None:
    """DENY and ALLOW that decide, each under a name of its own: it refuses two filters of one name."""
    texts = [
        policy("allow"),
        policy("audit", "action: AUDIT, rules: [{}]"),
        policy("deny", "action: DENY, rules: [{}]"),
        policy("dry", "action: DENY, rules: [{}]", dry="true"),
        policy("custom", "action: CUSTOM, provider: {name: opa}, rules: [{}]"),
    ]
    found = http_filters(*texts, asking=node("grpc"))
    assert [name.removeprefix("envoy.filters.http.rbac.") for name, _ in found] == ["CUSTOM", "DENY", "ALLOW"]
    assert not any(one.HasField("shadow_rules") for _, one in found)


def test_the_listener_knows_the_line_of_every_policy_that_a_refusal_may_name() -> None:
    """And its sources, so that a NACK names the objects."""
    text = policy("a", "rules: [{}, {}]").replace("spec: {rules: [{}, {}]}", "spec:\n  rules:\n  - {}\n  - {}")
    asking = node()
    resource = translate(world(text, nodes=[asking]), asking, LISTENER, NAME)
    assert resource is not None
    assert [str(key) for key in resource.sources] == ["AuthorizationPolicy default/a"]
    fields = decoded(resource).metadata.filter_metadata["meshlib.policies"].fields
    origin = fields["ns[default]-policy[a]-rule[1]"].struct_value.fields
    assert (origin["object"].string_value, origin["file"].string_value) == ("AuthorizationPolicy default/a", "test.yaml")
    assert (origin["field"].string_value, origin["line"].number_value) == ("spec.rules[1]", 7)


def test_aliases_of_the_trust_domain_are_read_from_the_mesh_configuration() -> None:
    """In policies, and in what Envoy's own listeners ask of certificates."""
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    aliases = f"{head}data: {{mesh: 'trustDomainAliases: [old]'}}\n---\n"
    text = policy(spec="rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]")
    asking = node("envoy")
    found = world(aliases, text, nodes=[asking])
    (mutual, *_), wanted = chains(found, asking), ["spiffe://cluster.local/", "spiffe://old/"]
    context = unpack(mutual.transport_socket.typed_config).common_tls_context.combined_validation_context
    names = context.default_validation_context.match_typed_subject_alt_names
    assert [one.matcher.prefix for one in names] == wanted
    (rbac, _router) = unpack(mutual.filters[-1].typed_config).http_filters
    (rule,) = unpack(rbac.typed_config).rules.policies.values()
    ids = rule.principals[0].and_ids.ids[0].or_ids.ids
    assert [one.authenticated.principal_name.exact for one in ids] == [f"{domain}ns/a/sa/b" for domain in wanted]


# TCP


def network_filters(*texts: str, asking: Node) -> list[list[Any]]:
    """The network filters of RBAC in each chain that is not HTTP, and that something follows them."""
    found = []
    for chain in chains(world(*texts, nodes=[asking]), asking):
        *before, last = chain.filters
        if last.name == "envoy.filters.network.tcp_proxy" and chain.name != "virtualInbound-blackhole":
            found.append([unpack(one.typed_config) for one in before])
    return found


def test_connections_that_are_not_http_are_asked_by_network_filters() -> None:
    """In every chain of the port, with Istio's prefix of statistics; an ALLOW about requests allows no connection."""
    texts = [
        policy("a", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
        policy("d", 'action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ["1"]}}]}]'),
    ]
    found = network_filters(*texts, asking=node("envoy", "tcp"))
    assert len(found) == 3
    for deny, allow in found:
        assert (deny.stat_prefix, allow.stat_prefix) == ("tcp.", "tcp.")
        (denied,) = deny.rules.policies.values()
        (port,) = denied.permissions[0].and_rules.rules
        assert port.or_rules.rules[0].destination_port == 1
        assert (allow.HasField("rules"), dict(allow.rules.policies)) == (True, {})


def test_ports_that_nobody_registered_are_no_way_around_a_policy() -> None:
    """Redirected connections to other ports meet the policies, too."""
    asking = node("envoy", proxying=Proxying(transparent=True, identity_file="/a"))
    found = network_filters(policy(spec=""), asking=asking)
    assert len(found) == 3
    assert all(sorted(one.rules.policies) == ["ns[default]-policy[a]-rule[0]"] for (one,) in found)


# Paths

NORMALIZATIONS = {
    "DEFAULT": (True, False, 1),
    "BASE": (True, False, 1),
    "NONE": (False, False, 1),
    "MERGE_SLASHES": (True, True, 1),
    "DECODE_AND_MERGE_SLASHES": (True, True, 4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_paths_are_normalized_as_the_mesh_configuration_says(name: str, kind: str) -> None:
    """Istio's five ways, alike in every chain; the last number is KEEP_UNCHANGED or UNESCAPE_AND_FORWARD."""
    asking = node(kind)
    mesh = build(MeshConfig, {"pathNormalization": {"normalization": name}})
    found = replace(world(nodes=[asking]), mesh=mesh)
    for chain in chains(found, asking):
        manager = unpack(chain.filters[-1].typed_config)
        how = (manager.normalize_path.value, manager.merge_slashes, manager.path_with_escaped_slashes_action)
        assert how == NORMALIZATIONS[name]
