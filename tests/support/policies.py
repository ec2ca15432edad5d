"""Drawn AuthorizationPolicies: every field, every form of a value, valid objects only.

    dice = Random(7)
    documents = [policy(dice, f"p{number}") for number in range(20)]      # plain data; `json.dumps` makes YAML of it

Values come from small sets, so that requests drawn from the same sets fulfil some of the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Json = dict[str, Any]

METHODS = ("GET", "POST", "PUT", "DELETE")
HOSTS = ("reviews", "Reviews:9080", "reviews.default.svc.cluster.local:9080")
PATHS = ("/", "/a", "/a/b", "/A", "/a/b/c", "/x/y.txt", "/pkg.Service/Method", "/a%2Fb")
TEMPLATES = ("/a/{*}", "/{*}/b", "/{*}/{*}", "/{**}", "/a/{**}", "/{*}/{**}/c", "/a/{*}/", "/{**}/y.txt")
PRINCIPALS = ("cluster.local/ns/default/sa/client", "old.example/ns/default/sa/client", "other/ns/a/sa/b", "sa/b")
NAMESPACES = ("default", "other", "de*", "*fault", "d*t")
ACCOUNTS = ("client", "default/client", "other/client")
DOMAINS = ("cluster.local", "old.example", "clus*", "*.local", "*")
SUBNETS = ("127.0.0.1", "127.0.0.0/8", "10.0.0.0/8", "::1", "fd00::/8")
TOKENS = ("https://issuer/path/sub", "*", "*/sub", "https://issuer/path/*", "*sub", "issuer*", "issuer")
PORTS = ("1", "7001", "9080", "65535")
TEXTS = ("a", "b", "a-b", "A", "", "[a]", "a,b")
NAMES = ("x-a", "X-B", "user-agent", ":path", "host", "grpc-timeout", "x-bin")


def stars(dice: Random, value: str) -> str:
    """A value as it is, cut off with a star at either end, or only the star."""
    place = dice.randrange(len(value) + 1)
    return dice.choice((value, value, f"{value[:place]}*", f"*{value[place:]}", "*"))


def some(dice: Random, values: Sequence[str], form: Callable[[Random, str], str] | None = None) -> list[str]:
    """One to three of the values."""
    chosen = [dice.choice(values) for _ in range(dice.randint(1, 3))]
    return [form(dice, value) or "*" if form else value for value in chosen]


def _path(dice: Random, value: str) -> str:
    return dice.choice(TEMPLATES) if dice.random() < 0.4 else stars(dice, value)


_SOURCE: tuple[tuple[str, Sequence[str], Callable[[Random, str], str] | None], ...] = (
    ("principals", PRINCIPALS, stars),
    ("requestPrincipals", TOKENS, None),
    ("namespaces", NAMESPACES, None),
    ("trustDomains", DOMAINS, None),
    ("ipBlocks", SUBNETS, None),
    ("remoteIpBlocks", SUBNETS, None),
)
_OPERATION: tuple[tuple[str, Sequence[str], Callable[[Random, str], str] | None], ...] = (
    ("hosts", HOSTS, stars),
    ("methods", METHODS, stars),
    ("paths", PATHS, _path),
    ("ports", PORTS, None),
)
_CONDITIONS: tuple[tuple[str, Sequence[str], Callable[[Random, str], str] | None], ...] = (
    ("source.ip", SUBNETS, None),
    ("remote.ip", SUBNETS, None),
    ("source.namespace", NAMESPACES, None),
    ("source.serviceAccount", ACCOUNTS, None),
    ("source.principal", PRINCIPALS, stars),
    ("source.trustDomain", DOMAINS, None),
    ("destination.ip", SUBNETS, None),
    ("destination.port", PORTS, None),
    ("connection.sni", HOSTS, stars),
    ("request.auth.principal", TOKENS, None),
    ("request.auth.audiences", TEXTS, stars),
    ("request.auth.presenter", TEXTS, stars),
    ("request.auth.claims[groups]", TEXTS, stars),
    ("request.auth.claims[a][b]", TEXTS, stars),
    ("experimental.envoy.filters.a.b[c]", TEXTS, stars),
    *((f"request.headers[{name}]", TEXTS, stars) for name in NAMES),
)


def _part(dice: Random, fields: Sequence[tuple[str, Sequence[str], Callable[[Random, str], str] | None]]) -> Json:
    found: Json = {}
    for name, values, form in dice.sample(fields, dice.randint(1, 2)):
        negated = f"not{name[0].upper()}{name[1:]}"
        for key in dice.choice(((name,), (name,), (negated,), (name, negated))):
            found[key] = some(dice, values, form)
    return found


def _source(dice: Random) -> Json:
    if dice.random() < 0.2:  # not together with principals or namespaces
        return {dice.choice(("serviceAccounts", "notServiceAccounts")): some(dice, ACCOUNTS)}
    return _part(dice, _SOURCE)


def _condition(dice: Random) -> Json:
    key, values, form = dice.choice(_CONDITIONS)
    sides = dice.choice((("values",), ("values",), ("notValues",), ("values", "notValues")))
    return {"key": key, **{side: some(dice, values, form) for side in sides}}


def rule(dice: Random) -> Json:
    """A rule; now and then the one that holds for everything."""
    found: Json = {}
    if dice.random() < 0.5:
        found["from"] = [{"source": _source(dice)} for _ in range(dice.randint(1, 2))]
    if dice.random() < 0.6:
        found["to"] = [{"operation": _part(dice, _OPERATION)} for _ in range(dice.randint(1, 2))]
    if dice.random() < 0.5:
        found["when"] = [_condition(dice) for _ in range(dice.randint(1, 2))]
    return found


def policy(dice: Random, name: str, actions: Sequence[str] = ("ALLOW", "DENY", "AUDIT", "CUSTOM"), **metadata: Any) -> Json:
    """An AuthorizationPolicy.

    Args:
        actions: of which one is drawn.
        metadata: namespace, annotations.
    """
    action = dice.choice(actions)
    spec: Json = {"action": action, "rules": [rule(dice) for _ in range(dice.randint(1, 3))]}
    if action == "CUSTOM":
        # Identities and claims are not known yet when it is asked.
        spec |= {"provider": {"name": "opa"}, "rules": [{"to": one["to"]} if "to" in one else {} for one in spec["rules"]]}
    if action in {"ALLOW", "DENY"} and dice.random() < 0.2:
        metadata = {**metadata, "annotations": {"istio.io/dry-run": "true"}}
    if action in {"ALLOW", "AUDIT"} and dice.random() < 0.05:
        del spec["rules"]
    return wrapped(spec, name=name, **metadata)


def wrapped(spec: Json, **metadata: Any) -> Json:
    """A spec as an AuthorizationPolicy; its namespace is `default` unless told otherwise."""
    facts = {"namespace": "default", **metadata}
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": facts, "spec": spec}
