"""One rule of an AuthorizationPolicy as Envoy's RBAC: each field, each form of a value, each place where it is checked."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from meshlib_control.kinds.schema import build
from meshlib_control.kinds.security import Rule
from meshlib_control.translate.authorization_rule import Place, Scope, rbac_policy

HOME = ("cluster.local",)
ANY = {"any": True}

Json = Any


def translated(rule: Json, place: Place = Place.HTTP, *, allow: bool = True, domains: tuple[str, ...] = HOME) -> Json:
    """The policy as JSON; None if there is none."""
    found = rbac_policy(build(Rule, rule), Scope(place, "foo", domains), allow=allow)
    return None if found is None else json_format.MessageToDict(found, descriptor_pool=found.DESCRIPTOR.file.pool)


def permission(rule: Json, place: Place = Place.HTTP, *, allow: bool = True) -> list[Json]:
    """What the only permission asks for."""
    (only,) = translated(rule, place, allow=allow)["permissions"]
    return list(only["andRules"]["rules"])


def principal(rule: Json, place: Place = Place.HTTP, *, allow: bool = True, domains: tuple[str, ...] = HOME) -> list[Json]:
    """What the only principal asks for."""
    (only,) = translated(rule, place, allow=allow, domains=domains)["principals"]
    return list(only["andIds"]["ids"])


def operation(**fields: list[str]) -> Json:
    return {"to": [{"operation": fields}]}


def source(**fields: list[str]) -> Json:
    return {"from": [{"source": fields}]}


def when(key: str, *values: str, but: tuple[str, ...] = ()) -> Json:
    return {"when": [{"key": key, "values": list(values), "notValues": list(but)}]}


def header(name: str, *forms: Json) -> Json:
    return [{"header": {"name": name, **form}} for form in forms]


def peer(form: Json) -> Json:
    return {"authenticated": {"principalName": form}}


def regex(text: str) -> Json:
    return {"safeRegex": {"regex": text}}


def claim(*names: str, **value: Json) -> Json:
    path = [{"key": "payload"}, *({"key": name} for name in names)]
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}}


# Shape


def test_an_empty_rule_holds_for_every_request() -> None:
    """`- {}`: anybody, anything."""
    assert translated({}) == {"permissions": [{"andRules": {"rules": [ANY]}}], "principals": [{"andIds": {"ids": [ANY]}}]}


def test_fields_are_joined_by_and_and_values_by_or() -> None:
    """Alternatives of `to` are permissions of their own, and every condition is in each of them."""
    rule = {
        "to": [{"operation": {"methods": ["GET", "PUT"], "ports": ["80"]}}, {"operation": {"notPaths": ["/a"]}}],
        "when": [{"key": "destination.ip", "values": ["1.2.3.4"]}],
    }
    ip = {"orRules": {"rules": [{"destinationIp": {"addressPrefix": "1.2.3.4", "prefixLen": 32}}]}}
    methods = header(":method", {"stringMatch": {"exact": "GET"}}, {"stringMatch": {"exact": "PUT"}})
    path = {"orRules": {"rules": [{"urlPath": {"path": {"exact": "/a"}}}]}}
    assert [one["andRules"]["rules"] for one in translated(rule)["permissions"]] == [
        [{"orRules": {"rules": methods}}, {"orRules": {"rules": [{"destinationPort": 80}]}}, ip],
        [{"notRule": path}, ip],
    ]


def test_the_order_of_fields_is_istios() -> None:
    """So that what we serve can be compared with what Istio serves, byte by byte."""
    fields = {
        "ipBlocks": ["1.2.3.4"],
        "remoteIpBlocks": ["1.2.3.4"],
        "namespaces": ["a"],
        "trustDomains": ["a"],
        "requestPrincipals": ["a/b"],
        "principals": ["a"],
    }
    found = principal(source(**fields))
    assert [next(iter(one["orIds"]["ids"][0])) if "orIds" in one else "request" for one in found] == [
        *("authenticated", "request", "authenticated", "authenticated", "remoteIp", "directRemoteIp"),
    ]


# Values


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("a", {"stringMatch": {"exact": "a"}}),
        ("a*", {"stringMatch": {"prefix": "a"}}),
        ("*a", {"stringMatch": {"suffix": "a"}}),
        ("*", {"presentMatch": True}),
    ],
)
def test_headers_are_compared_by_one_star(value: str, form: Json) -> None:
    """Methods and headers; names of headers in lower case, as grpcio compares them by letters."""
    assert permission(operation(methods=[value])) == [{"orRules": {"rules": header(":method", form)}}]
    assert principal(when("request.headers[X-A]", value)) == [{"orIds": {"ids": header("x-a", form)}}]


def test_hosts_are_compared_without_regard_to_case() -> None:
    """All but the presence."""
    found = permission(operation(hosts=["A.com", "*"]))
    forms = ({"stringMatch": {"exact": "A.com", "ignoreCase": True}}, {"presentMatch": True})
    assert found == [{"orRules": {"rules": header(":authority", *forms)}}]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("/a", {"urlPath": {"path": {"exact": "/a"}}}),
        ("/a*", {"urlPath": {"path": {"prefix": "/a"}}}),
        ("*/a", {"urlPath": {"path": {"suffix": "/a"}}}),
        ("*", {"urlPath": {"path": regex(".+")}}),
        ("/a/{*}/b", "/a/*/b"),
        ("/{**}/b", "/**/b"),
    ],
)
def test_paths_have_stars_or_templates(value: str, found: Json) -> None:
    """`{*}` is one segment and `{**}` any number of them."""
    if isinstance(found, str):
        config = {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "pathTemplate": found,
        }
        found = {"uriTemplate": {"name": "uri-template", "typedConfig": config}}
    assert permission(operation(paths=[value])) == [{"orRules": {"rules": [found]}}]


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"principals": ["cluster.local/ns/a/sa/b"]}, {"exact": "spiffe://cluster.local/ns/a/sa/b"}),
        ({"principals": ["cluster.local/ns/a/*"]}, {"prefix": "spiffe://cluster.local/ns/a/"}),
        ({"principals": ["*/sa/b.c"]}, regex(r"spiffe://.*/sa/b\.c")),
        ({"principals": ["*"]}, regex(".+")),
        ({"namespaces": ["a-b"]}, regex(".*/ns/a-b/.*")),
        ({"namespaces": ["a*.z"]}, regex(r".*/ns/a.*\.z/.*")),
        ({"serviceAccounts": ["b"]}, regex("spiffe://.+/ns/foo/(.+/|)sa/b(/.+)?")),
        ({"serviceAccounts": ["a/b"]}, regex("spiffe://.+/ns/a/(.+/|)sa/b(/.+)?")),
        ({"trustDomains": ["a.b"]}, {"prefix": "spiffe://a.b/"}),
        ({"trustDomains": ["*.b"]}, regex(r"spiffe://[^/]*\.b/.*")),
        ({"trustDomains": ["*"]}, {"prefix": "spiffe://"}),
    ],
)
def test_peers_are_compared_by_their_spiffe_id(fields: dict[str, list[str]], form: Json) -> None:
    """Plainly and negated."""
    assert principal(source(**fields)) == [{"orIds": {"ids": [peer(form)]}}]
    ((name, values),) = fields.items()
    negated = f"not{name[0].upper()}{name[1:]}"
    assert principal(source(**{negated: values})) == [{"notId": {"orIds": {"ids": [peer(form)]}}}]


def test_addresses_are_the_peers_or_those_it_forwards_for() -> None:
    """A single address is a range of one."""
    found = principal(source(ipBlocks=["10.1.0.0/16"], notRemoteIpBlocks=["::1"]))
    assert found == [
        {"notId": {"orIds": {"ids": [{"remoteIp": {"addressPrefix": "::1", "prefixLen": 128}}]}}},
        {"orIds": {"ids": [{"directRemoteIp": {"addressPrefix": "10.1.0.0", "prefixLen": 16}}]}},
    ]


@pytest.mark.parametrize(
    ("value", "issuer", "subject"),
    [
        ("https://a/b/sub", {"exact": "https://a/b"}, {"exact": "sub"}),
        ("*", regex(".+"), regex(".+")),
        ("*/sub", regex(".+"), {"exact": "sub"}),
        ("*.com/sub", {"suffix": ".com"}, {"exact": "sub"}),
        ("*sub", regex(".+"), {"suffix": "sub"}),
        ("iss/*", {"exact": "iss"}, regex(".+")),
        ("iss/sub*", {"exact": "iss"}, {"prefix": "sub"}),
        ("iss*", {"prefix": "iss"}, regex(".+")),
        ("iss", {"exact": "iss"}, {"exact": ""}),
    ],
)
def test_a_request_principal_is_issuer_and_subject(value: str, issuer: Json, subject: Json) -> None:
    """Split at the last slash: issuers are URLs."""
    pair = {"andIds": {"ids": [claim("iss", stringMatch=issuer), claim("sub", stringMatch=subject)]}}
    assert principal(source(requestPrincipals=[value])) == [pair]
    assert principal(when("request.auth.principal", but=(value, value))) == [{"notId": {"orIds": {"ids": [pair, pair]}}}]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("request.auth.audiences", ("aud",)),
        ("request.auth.presenter", ("azp",)),
        ("request.auth.claims[groups]", ("groups",)),
        ("request.auth.claims[a][b.c]", ("a", "b.c")),
        ("request.auth.claims[a[b]]", ("a[b]",)),
    ],
)
def test_a_claim_is_a_text_or_a_list_that_has_it(key: str, names: tuple[str, ...]) -> None:
    """Nested claims by several brackets."""
    one = {"stringMatch": {"exact": "x"}}
    both = {"orMatch": {"valueMatchers": [one, {"stringMatch": {"prefix": "y"}}]}}

    def wanted(value: Json) -> Json:
        return claim(*names, orMatch={"valueMatchers": [{"listMatch": {"oneOf": value}}, value]})

    assert principal(when(key, "x")) == [wanted(one)]
    assert principal(when(key, "x", "y*", but=("x",))) == [wanted(both), {"notId": wanted(one)}]


def test_dynamic_metadata_is_compared_as_text_or_as_a_list() -> None:
    """`experimental.envoy.filters.`: brackets around a value ask for a member of a list."""
    found = permission(when("experimental.envoy.filters.a.b[c]", "x", "[y]"))
    values = [{"stringMatch": {"exact": "x"}}, {"listMatch": {"oneOf": {"stringMatch": {"exact": "y"}}}}]
    value = {"orMatch": {"valueMatchers": values}}
    assert found == [{"metadata": {"filter": "envoy.filters.a.b", "path": [{"key": "c"}], "value": value}}]


def test_the_servers_side_of_a_connection() -> None:
    """Its port and the name that the client asked for."""
    rule = {"when": [*when("destination.port", "80")["when"], *when("connection.sni", "*.a")["when"]]}
    assert permission(rule) == [
        {"orRules": {"rules": [{"destinationPort": 80}]}},
        {"orRules": {"rules": [{"requestedServerName": {"suffix": ".a"}}]}},
    ]


# Trust domains


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("new/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("old/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("cluster.local/ns/a/sa/b", ["new/ns/a/sa/b", "old/ns/a/sa/b"]),
        ("other/ns/a/sa/b", ["other/ns/a/sa/b"]),
        ("new/b", ["new/b"]),
    ],
)
def test_peers_of_an_alias_are_peers_of_the_trust_domain(value: str, found: list[str]) -> None:
    """And the other way round; `cluster.local` means the mesh's own; strangers stay strangers."""
    (only,) = principal(source(principals=[value]), domains=("new", "old"))
    assert only["orIds"]["ids"] == [peer({"exact": f"spiffe://{one}"}) for one in found]


def test_a_star_in_a_trust_domain_stays_where_it_covers_one() -> None:
    """`*w` covers `new`, so only `old` is added."""
    (only,) = principal(source(principals=["*w/ns/a/sa/b"]), domains=("new", "old"))
    assert only["orIds"]["ids"] == [peer(regex("spiffe://.*w/ns/a/sa/b")), peer({"exact": "spiffe://old/ns/a/sa/b"})]
    (only,) = principal(source(principals=["*/ns/a/sa/b"]), domains=("new", "old"))
    assert only["orIds"]["ids"] == [peer(regex("spiffe://.*/ns/a/sa/b"))]


def test_a_trust_domain_of_a_source_stands_for_its_aliases() -> None:
    """Patterns do not."""
    (only,) = principal(source(trustDomains=["old", "o*"]), domains=("new", "old"))
    forms = ({"prefix": "spiffe://new/"}, {"prefix": "spiffe://old/"}, regex("spiffe://o[^/]*/.*"))
    assert only["orIds"]["ids"] == [peer(form) for form in forms]


# What a place cannot check

REQUESTS_ONLY = [
    operation(hosts=["a"]),
    operation(notMethods=["GET"]),
    operation(paths=["/a"]),
    source(requestPrincipals=["*"]),
    when("request.headers[a]", "b"),
    when("request.auth.claims[a]", "b"),
    when("request.auth.audiences", but=("b",)),
]
UNKNOWN_TO_GRPCIO = [
    operation(paths=["/a", "/b/{*}"]),
    source(requestPrincipals=["*"]),
    source(remoteIpBlocks=["1.2.3.4"]),
    when("request.auth.claims[a]", "b"),
    when("request.headers[grpc-timeout]", "b"),
    when("request.headers[:scheme]", "b"),
    when("request.headers[a-bin]", "b"),
    when("connection.sni", but=("b",)),
    when("experimental.envoy.filters.a[b]", "c"),
]


@pytest.mark.parametrize(
    ("rule", "place"),
    [*((rule, Place.TCP) for rule in REQUESTS_ONLY), *((rule, Place.GRPC) for rule in UNKNOWN_TO_GRPCIO)],
)
def test_what_cannot_be_checked_allows_nothing_and_denies_everything(rule: Json, place: Place) -> None:
    """The rule of an ALLOW falls away; a DENY loses the whole field, the values that could be checked with it."""
    assert translated(rule, place) is None
    assert translated(rule, place, allow=False) == translated({})
    assert translated(rule) is not None


def test_what_can_be_checked_beside_it_stays_in_a_deny() -> None:
    """Only the field falls away."""
    rule = {**operation(methods=["GET"], ports=["80"]), **source(principals=["a"])}
    assert translated(rule, Place.TCP) is None
    found = translated(rule, Place.TCP, allow=False)
    assert found == translated({**operation(ports=["80"]), **source(principals=["a"])}, Place.TCP)


@pytest.mark.parametrize(
    "path", ["a/{*}", "{**}", "/a//{*}", "//{*}", "/{**}/{*}", "/a{*}", "/{**}.txt", "/a b/{*}", "/{*}/" + 254 * "a"]
)
def test_templates_that_envoy_does_not_survive_are_not_sent(path: str) -> None:
    """Istio's validation accepts some of them."""
    assert translated(operation(paths=[path])) is None
    assert translated(operation(notPaths=["/a", path]), allow=False) == translated({})


@pytest.mark.parametrize("key", ["request.headers[a\nb]", "request.auth.claims[a][]", "request.auth.claims[][a]"])
def test_names_that_envoy_refuses_are_not_sent(key: str) -> None:
    """One such condition would make it reject the whole listener."""
    assert translated(when(key, "x")) is None
    assert translated(when(key, "x"), allow=False) == translated({})


@pytest.mark.parametrize(
    "rule", [when("a.b", "c"), operation(ports=["x"]), source(ipBlocks=["x"]), source(ipBlocks=["1.2.3.4/99"])]
)
def test_values_that_validation_should_have_refused_are_not_obeyed_halfway(rule: Json) -> None:
    """Kept from an older version, say: they are like what cannot be checked."""
    assert translated(rule) is None
    assert translated(rule, allow=False) == translated({})
