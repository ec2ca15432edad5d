"""Random policies for the authorization referee: by a plain `Random`, for speed. Their requests: `authorization_requests`.

Policies are `envoy.config.rbac.v3` as JSON, built of few names and values so that requests meet them often.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

Json = dict[str, Any]

NAMES = ["productpage", "reviews", "ratings"]
IDENTITIES = [f"spiffe://cluster.local/ns/{namespace}/sa/{name}" for namespace in ("default", "bar") for name in NAMES]

PATHS = ["/", "/admin", "/admin/", "/admin/users", "/Admin", "/a/b", "/reviews/0", "/a%2Fb", "/p\u00e4th", "/x;y=1", "/a//b"]
HOSTS = ["reviews", "reviews:9080", "REVIEWS:9080", "details", "evil.example", "127.0.0.1:80", "reviews.default"]
METHODS = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT"]
HEADERS = ["x-team", "X-Role", "cookie", "user-agent", "x-forwarded-for", "content-type", "te", "connection", "accept"]
HEADERS += ["authorization", "x-request-id", "x-envoy-max-retries", "upgrade", "expect", "via", "x-forwarded-proto"]
VALUES = ["a", "A", "admin", "Admin", "a,b", "b", "", " a ", "admin;x", "trailers", "10.1.2.3", "127.0.0.1", "\u00fc"]
VALUES += ["keep-alive"]
_SUBNETS = [("127.0.0.0", 8), ("10.0.0.0", 8), ("0.0.0.0", 0), ("::", 0), ("127.0.0.1", 32), ("192.168.0.0", 16)]
_TEMPLATES = ["/admin/*", "/{x}/b", "/a/**", "/**", "/reviews/*", "/*/users"]

NORMALIZATIONS: list[Json] = [
    {"normalize_path": True},
    {"normalize_path": True},
    {"normalize_path": False},
    {"normalize_path": True, "merge_slashes": True},
    {"normalize_path": True, "merge_slashes": True, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"},
    {"normalize_path": True, "path_with_escaped_slashes_action": "REJECT_REQUEST"},
    {"normalize_path": True, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"},
]


@dataclass(frozen=True)
class World:
    """What one port enforces: RBAC filters in order, and what is done to paths."""

    filters: tuple[Json, ...]
    normalization: Json


def world(draw: Random) -> World:
    """The policies of one port: DENY and ALLOW as Istio orders them, or one of them."""
    actions = draw.choice([["ALLOW"], ["DENY"], ["DENY", "ALLOW"], ["LOG", "DENY", "ALLOW"]])
    return World(tuple(_rbac(draw, action) for action in actions), draw.choice(NORMALIZATIONS))


def _rbac(draw: Random, action: str) -> Json:
    policies = {f"ns[default]-policy[p{number}]-rule[0]": _policy(draw) for number in range(draw.randrange(1, 4))}
    return {"rules": {"action": action, "policies": policies}}


def _policy(draw: Random) -> Json:
    return {
        "permissions": [_part(draw, _PERMISSIONS, _GROUPS[0], 2) for _ in range(draw.randrange(1, 3))],
        "principals": [_part(draw, _PRINCIPALS, _GROUPS[1], 2) for _ in range(draw.randrange(1, 3))],
    }


_GROUPS = (("and_rules", "or_rules", "not_rule", "rules"), ("and_ids", "or_ids", "not_id", "ids"))


def _part(draw: Random, leaves: list[Any], words: tuple[str, str, str, str], depth: int) -> Json:
    every, some, none, members = words
    if depth and draw.random() < 0.35:
        form = draw.choice((every, some, none))
        if form == none:
            return {none: _part(draw, leaves, words, depth - 1)}
        return {form: {members: [_part(draw, leaves, words, depth - 1) for _ in range(draw.randrange(1, 4))]}}
    leaf: Json = draw.choice(leaves)(draw)
    return leaf


def _text(draw: Random, values: list[str]) -> Json:
    value = draw.choice(values)
    form = draw.choice(("exact", "exact", "prefix", "suffix", "contains", "regex"))
    if form == "regex":
        return {
            "safe_regex": {"regex": draw.choice([".*", ".+", "[^/]*", "(?i)admin.*", ".*/sa/reviews", "a|b", "/.*", "..?"])}
        }
    cut = draw.randrange(1, len(value) + 1) if value else 0
    part = {"exact": value, "prefix": value[:cut], "suffix": value[-cut:] if cut else "", "contains": value[:cut]}[form]
    if not part and form != "exact":
        return {"exact": value}
    return {form: part, "ignore_case": draw.random() < 0.2}


def _header(draw: Random) -> Json:
    name, values = draw.choice([(name, VALUES) for name in HEADERS] + [(":authority", HOSTS), ("host", HOSTS)])
    return {"header": {**_condition(draw, name, values), "treat_missing_header_as_empty": draw.random() < 0.1}}


def _condition(draw: Random, name: str, values: list[str]) -> Json:
    found: Json = {"name": name, "invert_match": draw.random() < 0.15}
    if draw.random() < 0.2:
        return {**found, "present_match": draw.random() < 0.8}
    if name == "x-request-id":  # a request without one gets a random one from Envoy: a part of it may fit by chance
        return {**found, "string_match": {"exact": draw.choice(values)}}
    return {**found, "string_match": _text(draw, values)}


def _method(draw: Random) -> Json:
    return {"header": {"name": ":method", "string_match": {"exact": draw.choice(METHODS)}}}


def _pseudo_path(draw: Random) -> Json:
    return {"header": {"name": ":path", "string_match": _text(draw, PATHS)}}


def _url_path(draw: Random) -> Json:
    return {"url_path": {"path": _text(draw, PATHS)}}


def _template(draw: Random) -> Json:
    kind = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
    config = {"@type": kind, "path_template": draw.choice(_TEMPLATES)}
    return {"uri_template": {"name": "uri-template", "typed_config": config}}


def _subnet(draw: Random) -> Json:
    address, length = draw.choice(_SUBNETS)
    return {"address_prefix": address, "prefix_len": length}


def _authenticated(draw: Random) -> Json:
    return {"authenticated": {"principal_name": _text(draw, IDENTITIES)} if draw.random() < 0.9 else {}}


_PERMISSIONS = [
    lambda draw: {"any": True},
    _header,
    _method,
    _url_path,
    _url_path,
    _url_path,
    _pseudo_path,
    _template,
    lambda draw: {"destination_ip": _subnet(draw)},
    lambda draw: {"destination_port_range": {"start": 1, "end": draw.choice([1024, 32768, 65536])}},
    lambda draw: {"requested_server_name": {"exact": draw.choice(["", "reviews", "details"])}},
    lambda draw: {"metadata": {"filter": "none", "path": [{"key": "x"}], "value": {"present_match": True}}},
]
_PRINCIPALS = [
    lambda draw: {"any": True},
    _authenticated,
    _authenticated,
    _authenticated,
    _header,
    _url_path,
    lambda draw: {"source_ip": _subnet(draw)},
    lambda draw: {"direct_remote_ip": _subnet(draw)},
    lambda draw: {"remote_ip": _subnet(draw)},
]
