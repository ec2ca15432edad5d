from __future__ import annotations

from meshlib_control.model import Node, World
from meshlib_control.translate.destination_rule import RuleSet, rules_for
from tests.support.worlds import REVIEWS, client, host, server, world

ROOT = "istio-system"


def rule(
    name: str,
    namespace: str = "default",
    for_host: str = host("reviews"),
    subsets: str = "",
    policy: str = "",
    extra: str = "",
) -> str:
    lines = [f"host: '{for_host}'", extra]
    lines += [f"subsets: [{subsets}]"] if subsets else []
    lines += [f"trafficPolicy: {policy}"] if policy else []
    spec = "\n".join(f"  {line}" for line in lines if line)
    head = f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    return f"{head}spec:\n{spec}\n---\n"


def subset(name: str, policy: str = "") -> str:
    return f"{{name: {name}, labels: {{version: {name}}}" + (f", trafficPolicy: {policy}" if policy else "") + "}"


def rules(found: World, node: Node | None = None) -> RuleSet:
    return rules_for(found, node or client(), found.services[host("reviews")])


def names(found: RuleSet) -> list[str]:
    return [item.key.name for item in found.items]


def balancing(found: RuleSet, port: int = 9080, of: str = "") -> str | None:
    balancer = found.policy_for(port, of).load_balancer
    return balancer.simple if balancer else None


def test_clients_namespace_is_asked_before_the_services_and_the_root() -> None:
    """The first namespace with a rule for the host decides."""
    texts = {
        "bank": rule("client", "bank"),
        "default": rule("service", "default"),
        ROOT: rule("root", ROOT),
    }
    node = client("bank")
    assert names(rules(world(*texts.values()), node)) == ["client"]
    assert names(rules(world(texts["default"], texts[ROOT]), node)) == ["service"]
    assert names(rules(world(texts[ROOT]), node)) == ["root"]
    assert names(rules(world(texts["bank"]), client("default"))) == []


def test_a_client_in_the_root_namespace_asks_the_services_namespace_first() -> None:
    """Istio: the root namespace's rules are everybody's last resort, its clients' too."""
    assert names(rules(world(rule("root", ROOT), rule("service")), client(ROOT))) == ["service"]


def test_a_rule_that_is_not_exported_does_not_count_elsewhere() -> None:
    """exportTo `.` keeps it at home."""
    private = rule("service", extra='exportTo: ["."]')
    assert names(rules(world(private), client("bank"))) == []
    assert names(rules(world(private), client("default"))) == ["service"]
    assert names(rules(world(rule("service", extra="exportTo: [bank]")), client("bank"))) == ["service"]


def test_in_a_namespace_the_most_specific_host_wins() -> None:
    """Whatever the age."""
    wide = rule("wide", for_host="*.default.svc.cluster.local")
    wider = rule("wider", for_host="*.cluster.local")
    assert names(rules(world(wider, wide, rule("exact")))) == ["exact"]
    assert names(rules(world(wider, wide))) == ["wide"]


def test_a_short_host_is_completed_with_the_rules_namespace() -> None:
    """`reviews` in namespace shop is another service."""
    assert names(rules(world(rule("a", for_host="reviews")))) == ["a"]
    assert names(rules(world(rule("a", "shop", for_host="reviews")), client("shop"))) == []


def test_rules_for_one_host_add_up_and_the_first_policy_counts() -> None:
    """Subsets are appended; of equal names the first stays."""
    first = rule("first", subsets=subset("v1"))
    second = rule("second", subsets=f"{subset('v1', '{loadBalancer: {simple: RANDOM}}')}, {subset('v2')}", policy="{tls: {}}")
    third = rule("third", policy="{loadBalancer: {simple: RANDOM}}")
    found = rules(world(first, second, third))
    assert names(found) == ["first", "second", "third"]
    assert [placed.subset.name for placed in found.subsets] == ["v1", "v2"]
    v1 = found.subset("v1")
    assert v1 is not None
    assert (v1.item.key.name, v1.subset.traffic_policy) == ("first", None)
    assert found.policy_item is not None
    assert found.policy_item.key.name == "second"


def test_rules_with_different_export_are_not_merged() -> None:
    """Then the oldest counts alone."""
    first = rule("first", subsets=subset("v1"))
    second = rule("second", subsets=subset("v2"), extra='exportTo: ["."]')
    assert names(rules(world(first, second))) == ["first"]


def test_a_rule_that_selects_the_client_replaces_the_general_one() -> None:
    """For those clients only, in their own namespace."""
    special = rule("special", extra="workloadSelector: {matchLabels: {app: web}}")
    found = world(rule("general"), special)
    assert names(rules(found, client(app="web"))) == ["special"]
    assert names(rules(found, client(app="other"))) == ["general"]
    elsewhere = world(special, nodes=REVIEWS)
    assert names(rules(elsewhere, client("bank", app="web"))) == []


def test_a_subset_overrides_field_by_field() -> None:
    """What it does not say it takes from the general policy."""
    policy = "{loadBalancer: {simple: RANDOM}, tls: {mode: ISTIO_MUTUAL}}"
    found = rules(world(rule("a", policy=policy, subsets=subset("v1", "{loadBalancer: {simple: ROUND_ROBIN}}"))))
    assert (balancing(found), balancing(found, of="v1")) == ("RANDOM", "ROUND_ROBIN")
    tls = found.policy_for(9080, "v1").tls
    assert tls is not None
    assert tls.mode == "ISTIO_MUTUAL"


def test_a_ports_policy_replaces_everything() -> None:
    """No field is inherited (Istio: trap 9)."""
    port = "portLevelSettings: [{port: {number: 9080}, connectionPool: {tcp: {connectTimeout: 1s}}}]"
    found = rules(world(rule("a", policy=f"{{loadBalancer: {{simple: RANDOM}}, {port}}}", subsets=subset("v1"))))
    assert balancing(found) is None
    assert balancing(found, port=81) == "RANDOM"
    assert found.policy_for(9080, "v1").connection_pool is not None


def test_a_subset_overrides_a_ports_policy_too() -> None:
    """The general port policy is what the subset starts from."""
    policy = "{portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: RANDOM}}]}"
    own = "{portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}"
    found = rules(world(rule("a", policy=policy, subsets=f"{subset('v1', own)}, {subset('v2')}")))
    assert (balancing(found, of="v1"), balancing(found, of="v2")) == ("ROUND_ROBIN", "RANDOM")


def test_without_a_rule_the_defaults_hold() -> None:
    """An empty set answers all questions."""
    found = rules(world())
    assert names(found) == []
    assert balancing(found) is None
    assert found.subset("v1") is None


def test_rules_are_found_for_declared_services_too() -> None:
    """A ServiceEntry's host in another namespace than the client's."""
    entry = (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: g, namespace: shop}\n"
        "spec: {hosts: [www.g.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n---\n"
    )
    found = world(entry, rule("a", "shop", for_host="www.g.com"), nodes=(server(),))
    assert names(rules_for(found, client("default"), found.services["www.g.com"])) == ["a"]
