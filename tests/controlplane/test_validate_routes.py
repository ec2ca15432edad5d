"""VirtualService: Istio's rules, each by the smallest object that breaks it."""

from __future__ import annotations

from typing import Any

from tests.support.mistaken import each_accepted, each_refused, mistakes


def http(**route: Any) -> dict[str, Any]:
    return {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}], **route}]}


def without_route(**route: Any) -> dict[str, Any]:
    return {"hosts": ["reviews"], "http": [route]}


TWO = [{"destination": {"host": "a"}}, {"destination": {"host": "b"}}]
TO_A = {"destination": {"host": "a"}}

REFUSED: list[tuple[str, Any, str, str]] = [
    ("VirtualService", {"hosts": ["*"], "http": [{"route": [TO_A]}]}, "spec.hosts[0]", "wildcard host *"),
    ("VirtualService", {"hosts": ["a_b"], "http": [{"route": [TO_A]}]}, "spec.hosts[0]", "not valid"),
    ("VirtualService", {"hosts": ["a.*.b"], "http": [{"route": [TO_A]}]}, "spec.hosts[0]", "not valid"),
    ("VirtualService", {"hosts": ["*.b.com", "a.b.com"], "http": [{"route": [TO_A]}]}, "spec.hosts[1]", "duplicate hosts"),
    ("VirtualService", {"hosts": ["a"]}, "spec", "http, tcp or tls"),
    ("VirtualService", {"http": [{"route": [TO_A]}], "gateways": ["g"]}, "spec.gateways", "delegate"),
    (
        "VirtualService",
        {"hosts": ["a"], "gateways": ["x/y/z"], "http": [{"route": [TO_A]}]},
        "spec.gateways[0]",
        "not a valid name",
    ),
    ("VirtualService", {"hosts": ["a"], "exportTo": ["*", "b"], "http": [{"route": [TO_A]}]}, "spec.exportTo", "everybody"),
    (
        "VirtualService",
        {"hosts": ["a"], "exportTo": [".", "default"], "http": [{"route": [TO_A]}]},
        "spec.exportTo[1]",
        "duplicate",
    ),
    (
        "VirtualService",
        {"hosts": ["a"], "exportTo": ["~"], "http": [{"route": [TO_A]}]},
        "spec.exportTo[0]",
        "not a valid name",
    ),
    ("VirtualService", http(match=[{"uri": {"regex": "("}}]), "spec.http[0].match[0].uri.regex", "RE2"),
    ("VirtualService", http(match=[{"uri": {"regex": "(?!a)b"}}]), "spec.http[0].match[0].uri.regex", "RE2"),
    ("VirtualService", http(match=[{"uri": {"regex": ""}}]), "spec.http[0].match[0].uri.regex", "empty"),
    ("VirtualService", http(match=[{"uri": {"regex": "a" * 1025}}]), "spec.http[0].match[0].uri.regex", "too large"),
    ("VirtualService", http(match=[{"method": {"prefix": ""}}]), "spec.http[0].match[0].method.prefix", "should not be empty"),
    (
        "VirtualService",
        http(match=[{"headers": {"a b": {"exact": "x"}}}]),
        'spec.http[0].match[0].headers["a b"]',
        "header name",
    ),
    ("VirtualService", http(match=[{"port": 70000}]), "spec.http[0].match[0].port", "1-65535"),
    (
        "VirtualService",
        http(match=[{"headers": {"@request.auth.claims.a": {}}}]),
        'spec.http[0].match[0].headers["@request.auth.claims.a"]',
        "gateways",
    ),
    ("VirtualService", {"hosts": ["a"], "http": [{}]}, "spec.http[0]", "required"),
    ("VirtualService", http(redirect={"uri": "/"}), "spec.http[0].redirect", "both route and redirect"),
    (
        "VirtualService",
        without_route(redirect={"uri": "/"}, fault={"abort": {"httpStatus": 500}}),
        "spec.http[0].fault",
        "both",
    ),
    ("VirtualService", without_route(directResponse={"status": 99}), "spec.http[0].directResponse.status", "200-599"),
    (
        "VirtualService",
        without_route(directResponse={"status": 200, "body": {"bytes": "%"}}),
        "spec.http[0].directResponse.body.bytes",
        "base64",
    ),
    ("VirtualService", without_route(redirect={}), "spec.http[0].redirect", "must specify"),
    ("VirtualService", without_route(redirect={"uri": "/", "redirectCode": 404}), "spec.http[0].redirect.redirectCode", "404"),
    ("VirtualService", http(delegate={"name": "b"}), "spec.http[0].route", "delegate"),
    ("VirtualService", {"hosts": ["a"], "http": [{"route": TWO}]}, "spec.http[0].route", "total destination weight = 0"),
    ("VirtualService", {"hosts": ["a"], "http": [{"route": [{**TO_A, "weight": -1}]}]}, "spec.http[0].route[0].weight", "< 0"),
    (
        "VirtualService",
        {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "*"}}]}]},
        "spec.http[0].route[0].destination.host",
        "invalid",
    ),
    (
        "VirtualService",
        {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a", "subset": "v_1"}}]}]},
        "spec.http[0].route[0].destination.subset",
        "name",
    ),
    (
        "VirtualService",
        {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a", "port": {}}}]}]},
        "spec.http[0].route[0].destination.port.number",
        "1-65535",
    ),
    ("VirtualService", http(fault={}), "spec.http[0].fault", "abort and/or a delay"),
    ("VirtualService", http(fault={"abort": {"httpStatus": 700}}), "spec.http[0].fault.abort.httpStatus", "200-599"),
    (
        "VirtualService",
        http(fault={"abort": {"grpcStatus": "UNAVAILBLE"}}),
        "spec.http[0].fault.abort.grpcStatus",
        "not supported",
    ),
    (
        "VirtualService",
        http(fault={"delay": {"fixedDelay": "1s", "percentage": {"value": 101}}}),
        "spec.http[0].fault.delay.percentage.value",
        "100",
    ),
    (
        "VirtualService",
        http(fault={"delay": {"fixedDelay": "1s", "percentage": {"value": 0.00001}}}),
        "spec.http[0].fault.delay.percentage.value",
        "0.0001",
    ),
    (
        "VirtualService",
        http(fault={"delay": {"fixedDelay": "1s", "percent": 101}}),
        "spec.http[0].fault.delay.percent",
        "0..100",
    ),
    (
        "VirtualService",
        http(fault={"delay": {"exponentialDelay": "1s"}}),
        "spec.http[0].fault.delay.exponentialDelay",
        "not supported",
    ),
    ("VirtualService", http(retries={"attempts": -1}), "spec.http[0].retries.attempts", "negative"),
    ("VirtualService", http(retries={"perTryTimeout": "1s"}), "spec.http[0].retries", "attempts"),
    (
        "VirtualService",
        http(retries={"attempts": 1, "retryOn": "5xx,conect-failure"}),
        "spec.http[0].retries.retryOn",
        "conect-failure",
    ),
    ("VirtualService", http(rewrite={}), "spec.http[0].rewrite", "at least one"),
    (
        "VirtualService",
        http(rewrite={"uri": "/", "uriRegexRewrite": {"match": "a", "rewrite": "b"}}),
        "spec.http[0].rewrite.uriRegexRewrite",
        "one of",
    ),
    ("VirtualService", http(headers={"response": {"set": {"host": "a"}}}), "spec.http[0].headers.response.set.host", "Host"),
    (
        "VirtualService",
        http(headers={"request": {"add": {":path": "a"}}}),
        'spec.http[0].headers.request.add[":path"]',
        "prefix",
    ),
    ("VirtualService", http(headers={"request": {"set": {"a": "50%"}}}), "spec.http[0].headers.request.set.a", "%%"),
    ("VirtualService", http(mirror={"host": "b"}, mirrors=[{"destination": {"host": "c"}}]), "spec.http[0].mirrors", "both"),
    (
        "VirtualService",
        http(mirror={"host": "b"}, mirrorPercentage={"value": 101}),
        "spec.http[0].mirrorPercentage.value",
        "100",
    ),
    ("VirtualService", http(corsPolicy={"allowMethods": ["get"]}), "spec.http[0].corsPolicy.allowMethods[0]", "HTTP method"),
    ("VirtualService", http(corsPolicy={"maxAge": "1500ms"}), "spec.http[0].corsPolicy.maxAge", "seconds"),
    (
        "VirtualService",
        {"hosts": ["a.com"], "tls": [{"match": [{"sniHosts": ["b.com"]}], "route": [TO_A]}]},
        "spec.tls[0].match[0].sniHosts[0]",
        "subset",
    ),
    (
        "VirtualService",
        {"hosts": ["a.com"], "tcp": [{"match": [{"destinationSubnets": ["1.2.3.4/99"]}], "route": [TO_A]}]},
        "spec.tcp[0].match[0].destinationSubnets[0]",
        "CIDR",
    ),
    ("VirtualService", {"hosts": ["a.com"], "tcp": [{}]}, "spec.tcp[0].route", "required"),
]


@each_refused(REFUSED)
def test_a_broken_rule_is_named_with_its_field(kind: str, spec: Any, field: str, words: str) -> None:
    """Each of Istio's rules, by the smallest object that breaks it."""
    found = mistakes(kind, spec)
    assert [mistake for mistake in found if mistake.field == field and words in mistake.problem], found


ACCEPTED: list[tuple[str, Any]] = [
    ("VirtualService", http()),
    ("VirtualService", {"hosts": ["*"], "gateways": ["istio-system/g"], "http": [{"route": [TO_A]}]}),
    ("VirtualService", {"hosts": ["10.1.2.3", "*.wikipedia.org"], "http": [{"route": [TO_A]}]}),
    ("VirtualService", {"http": [{"route": [TO_A]}]}),
    ("VirtualService", {"hosts": ["a"], "http": [{"delegate": {"name": "b", "namespace": "c"}}]}),
    ("VirtualService", http(match=[{"uri": {"prefix": ""}, "headers": {"a": {}}, "queryParams": {"q": {"exact": ""}}}])),
    ("VirtualService", http(match=[{"withoutHeaders": {"a": {"regex": "*"}}, "headers": {"b": {"regex": "*"}}}])),
    ("VirtualService", http(retries={"attempts": 0})),
    ("VirtualService", http(retries={"attempts": 3, "retryOn": "5xx,503,connect-failure"})),
    (
        "VirtualService",
        http(fault={"delay": {"fixedDelay": "7s", "percentage": {"value": 0.0001}}, "abort": {"grpcStatus": "UNAVAILABLE"}}),
    ),
    ("VirtualService", http(headers={"request": {"set": {":authority": "b", "x": "%DOWNSTREAM_REMOTE_ADDRESS% 100%%"}}})),
    ("VirtualService", {"hosts": ["a"], "http": [{"route": [{**TO_A, "weight": 0}, {**TO_A, "weight": 7}]}]}),
    ("VirtualService", without_route(redirect={"authority": "b.com", "redirectCode": 308})),
    ("VirtualService", without_route(directResponse={"status": 503, "body": {"bytes": "aGk="}})),
    ("VirtualService", {"hosts": ["*.a.com"], "tls": [{"match": [{"sniHosts": ["b.a.com"]}], "route": [TO_A]}]}),
]


@each_accepted(ACCEPTED)
def test_what_istio_allows_is_allowed(kind: str, spec: Any) -> None:
    """The near misses of the rules."""
    assert mistakes(kind, spec) == []
