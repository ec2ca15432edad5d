"""Security, telemetry and extensions: Istio's rules, each by the smallest object that breaks it."""

from __future__ import annotations

from typing import Any

from tests.support.mistaken import each_accepted, each_refused, mistakes


def rule(**parts: Any) -> dict[str, Any]:
    return {"rules": [parts]}


REFUSED: list[tuple[str, Any, str, str]] = [
    ("RequestAuthentication", {"jwtRules": [{}]}, "spec.jwtRules[0].issuer", "non-empty"),
    ("RequestAuthentication", {"jwtRules": [{"issuer": "a", "jwks": "{"}]}, "spec.jwtRules[0].jwks", "Key Set"),
    (
        "RequestAuthentication",
        {"jwtRules": [{"issuer": "a", "jwks": '{"keys": []}', "jwksUri": "https://a"}]},
        "spec.jwtRules[0]",
        "only one",
    ),
    ("RequestAuthentication", {"targetRefs": [{"kind": "Pod", "name": "a"}]}, "spec.targetRefs[0].kind", "cannot be attached"),
    ("AuthorizationPolicy", {"action": "DENY"}, "spec.rules", "never acts"),
    ("AuthorizationPolicy", {"action": "CUSTOM", "rules": [{}]}, "spec.provider.name", "empty"),
    ("AuthorizationPolicy", {"rules": [{}], "provider": {"name": "a"}}, "spec.provider", "must not be set"),
    ("AuthorizationPolicy", rule(**{"from": []}), "spec.rules[0].from", "must not be empty"),
    ("AuthorizationPolicy", rule(**{"from": [{}]}), "spec.rules[0].from[0].source", "must not be empty"),
    ("AuthorizationPolicy", rule(to=[{"operation": {"ports": ["x"]}}]), "spec.rules[0].to[0].operation.ports[0]", "port"),
    (
        "AuthorizationPolicy",
        rule(to=[{"operation": {"paths": ["/a/{**}/{*}"]}}]),
        "spec.rules[0].to[0].operation.paths[0]",
        "last operator",
    ),
    (
        "AuthorizationPolicy",
        rule(to=[{"operation": {"paths": ["a/{*}"]}}]),
        "spec.rules[0].to[0].operation.paths[0]",
        "begins with /",
    ),
    (
        "AuthorizationPolicy",
        rule(to=[{"operation": {"paths": ["//{*}"]}}]),
        "spec.rules[0].to[0].operation.paths[0]",
        "no empty segments",
    ),
    (
        "AuthorizationPolicy",
        rule(to=[{"operation": {"paths": ["/{*}/" + 256 * "a"]}}]),
        "spec.rules[0].to[0].operation.paths[0]",
        "at most 256",
    ),
    (
        "AuthorizationPolicy",
        rule(to=[{"operation": {"notPaths": ["/a{x}"]}}]),
        "spec.rules[0].to[0].operation.notPaths[0]",
        "only allowed",
    ),
    (
        "AuthorizationPolicy",
        rule(**{"from": [{"source": {"ipBlocks": ["a"]}}]}),
        "spec.rules[0].from[0].source.ipBlocks[0]",
        "IP",
    ),
    (
        "AuthorizationPolicy",
        rule(when=[{"key": "request.header[x]", "values": ["a"]}]),
        "spec.rules[0].when[0].key",
        "unknown attribute",
    ),
    ("AuthorizationPolicy", rule(when=[{"key": "source.ip"}]), "spec.rules[0].when[0]", "at least one"),
    (
        "AuthorizationPolicy",
        {"action": "CUSTOM", "provider": {"name": "a"}, **rule(when=[{"key": "source.principal", "values": ["a"]}])},
        "spec.rules[0].when[0].key",
        "CUSTOM",
    ),
    (
        "Telemetry",
        {"tracing": [{"randomSamplingPercentage": 101}]},
        "spec.tracing[0].randomSamplingPercentage",
        "less than or equal",
    ),
    ("TrafficExtension", {}, "spec", "exactly one"),
    ("EnvoyFilter", {"configPatches": [{"applyTo": "CLUSTER"}]}, "spec.configPatches[0].patch.operation", "Required"),
    (
        "EnvoyFilter",
        {"configPatches": [{"applyTo": "CLUSTER", "match": {"listener": {}}, "patch": {"operation": "REMOVE"}}]},
        "spec.configPatches[0].match",
        "cluster match",
    ),
]


@each_refused(REFUSED)
def test_a_broken_rule_is_named_with_its_field(kind: str, spec: Any, field: str, words: str) -> None:
    """Each of Istio's rules, by the smallest object that breaks it."""
    found = mistakes(kind, spec)
    assert [mistake for mistake in found if mistake.field == field and words in mistake.problem], found


ACCEPTED: list[tuple[str, Any]] = [
    ("AuthorizationPolicy", {}),
    ("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}),
    ("PeerAuthentication", {"mtls": {"mode": "STRICT"}}),
]


@each_accepted(ACCEPTED)
def test_what_istio_allows_is_allowed(kind: str, spec: Any) -> None:
    """The near misses of the rules."""
    assert mistakes(kind, spec) == []


def test_dry_run_is_for_allow_and_deny() -> None:
    """The annotation makes no sense elsewhere."""
    name = "istio.io/dry-run"
    assert mistakes("AuthorizationPolicy", {"rules": [{}]}, annotations={name: "true"}) == []
    assert mistakes("AuthorizationPolicy", {"rules": [{}]}, annotations={name: "maybe"})
    custom = {"action": "CUSTOM", "provider": {"name": "a"}, "rules": [{}]}
    assert mistakes("AuthorizationPolicy", custom, annotations={name: "true"})
