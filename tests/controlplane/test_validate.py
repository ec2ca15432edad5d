"""Istio's rules over the fields of one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from meshlib_control import objects, validate, yaml
from meshlib_control.mistakes import Mistake
from meshlib_control.validate import formats

CONFORMANCE = Path(__file__).parents[3] / "shared" / "conformance"
CRDS = CONFORMANCE / "istio" / "pkg" / "config" / "validation" / "testdata" / "crds"
GROUPS = {
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "WorkloadEntry": "networking.istio.io/v1",
    "WorkloadGroup": "networking.istio.io/v1",
    "Gateway": "networking.istio.io/v1",
    "Sidecar": "networking.istio.io/v1",
    "EnvoyFilter": "networking.istio.io/v1alpha3",
    "ProxyConfig": "networking.istio.io/v1beta1",
    "PeerAuthentication": "security.istio.io/v1",
    "RequestAuthentication": "security.istio.io/v1",
    "AuthorizationPolicy": "security.istio.io/v1",
    "Telemetry": "telemetry.istio.io/v1",
    "WasmPlugin": "extensions.istio.io/v1alpha1",
    "TrafficExtension": "extensions.istio.io/v1alpha1",
}

# What Istio accepts or refuses and we do otherwise, with the reason. Empty: there is no such document.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def mistakes(kind: str, spec: Any, **metadata: Any) -> list[Mistake]:
    data = {"apiVersion": GROUPS[kind], "kind": kind, "metadata": {"name": "a", **metadata}, "spec": spec}
    document = yaml.Document(data)
    found = objects.mistakes(document)
    return found or [mistake for one in objects.read(document) for mistake in validate.mistakes(one)]


def conformance_documents() -> list[Any]:
    if not CRDS.is_dir():
        return [pytest.param(None, "", marks=pytest.mark.skip(reason="no conformance data"), id="crds")]
    cases = []
    for file in sorted(CRDS.glob("*.yaml")):
        for document in yaml.load(file.read_text(), file.name):
            error = document.data.pop("_err", "")
            line = document.lines[""]
            cases.append(pytest.param(document, error, id=f"{file.stem}:{line}"))
    return cases


@pytest.mark.parametrize(("document", "error"), conformance_documents())
def test_istios_own_cases_are_accepted_and_refused_as_istio_does(document: yaml.Document, error: str) -> None:
    """The documents of Istio's schema tests: a refused one is refused with Istio's words."""
    found = objects.mistakes(document)
    found = found or [mistake for one in objects.read(document) for mistake in validate.mistakes(one)]
    told = [f"{mistake.field}: {mistake.problem}" for mistake in found]
    if error:
        assert any(error in text for text in told), told
    else:
        assert told == []


def test_all_of_istios_files_are_there() -> None:
    """22 files; none is left out silently."""
    if not CRDS.is_dir():
        pytest.skip("no conformance data")
    assert len(list(CRDS.glob("*.yaml"))) == 22
    assert EXCEPTIONS == {}


def http(**route: Any) -> dict[str, Any]:
    return {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}], **route}]}


def without_route(**route: Any) -> dict[str, Any]:
    return {"hosts": ["reviews"], "http": [route]}


def policy(**parts: Any) -> dict[str, Any]:
    return {"host": "reviews", "trafficPolicy": parts}


def entry(**parts: Any) -> dict[str, Any]:
    return {"hosts": ["a.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], **parts}


def server(**parts: Any) -> dict[str, Any]:
    return {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"], **parts}]}


def egress(*hosts: str) -> dict[str, Any]:
    return {"egress": [{"hosts": list(hosts)}]}


def rule(**parts: Any) -> dict[str, Any]:
    return {"rules": [parts]}


TWO = [{"destination": {"host": "a"}}, {"destination": {"host": "b"}}]
TO_A = {"destination": {"host": "a"}}

REFUSED: list[tuple[str, Any, str, str]] = [
    # VirtualService
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
    # DestinationRule
    ("DestinationRule", {"host": "a..b"}, "spec.host", "not valid"),
    ("DestinationRule", policy(), "spec.trafficPolicy", "at least one field"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "v1"}, {"name": "v1"}]}, "spec.subsets[1].name", "duplicate"),
    ("DestinationRule", {"host": "a", "subsets": [{"name": "v_1"}]}, "spec.subsets[0].name", "not a valid name"),
    (
        "DestinationRule",
        policy(loadBalancer={"consistentHash": {"maglev": {"tableSize": 65536}}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        "prime",
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"consistentHash": {"maglev": {"tableSize": 5000011}}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        "less than",
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"consistentHash": {"httpHeaderName": "a", "useSourceIp": True}}),
        "spec.trafficPolicy.loadBalancer.consistentHash.useSourceIp",
        "only one",
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"localityLbSetting": {"distribute": [{"from": "a", "to": {"b": 50}}]}}),
        "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
        "!= 100",
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"localityLbSetting": {"distribute": [{"from": "a", "to": {"b/*": 50, "b/c": 50}}]}}),
        "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
        "overlaps",
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"localityLbSetting": {"failover": [{"from": "a", "to": "a"}]}}),
        "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]",
        "two different",
    ),
    (
        "DestinationRule",
        policy(outlierDetection={"maxEjectionPercent": 101}),
        "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
        "0..100",
    ),
    (
        "DestinationRule",
        policy(outlierDetection={"consecutiveLocalOriginFailures": 3}),
        "spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
        "splitExternal",
    ),
    ("DestinationRule", policy(connectionPool={}), "spec.trafficPolicy.connectionPool", "at least one field"),
    (
        "DestinationRule",
        policy(connectionPool={"http": {"maxRetries": -1}}),
        "spec.trafficPolicy.connectionPool.http.maxRetries",
        "negative",
    ),
    (
        "DestinationRule",
        policy(connectionPool={"http": {"http2KeepAlive": {"interval": "1s"}}}),
        "spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
        "Required",
    ),
    ("DestinationRule", policy(tls={"mode": "MUTUAL"}), "spec.trafficPolicy.tls.clientCertificate", "required"),
    (
        "DestinationRule",
        policy(tls={"mode": "SIMPLE", "insecureSkipVerify": True, "caCertificates": "/a"}),
        "spec.trafficPolicy.tls.insecureSkipVerify",
        "together",
    ),
    (
        "DestinationRule",
        policy(portLevelSettings=[{"tls": {"mode": "DISABLE"}}]),
        "spec.trafficPolicy.portLevelSettings[0].port",
        "Required",
    ),
    (
        "DestinationRule",
        policy(portLevelSettings=[{"port": {"number": 80}}]),
        "spec.trafficPolicy.portLevelSettings[0]",
        "at least one field",
    ),
    (
        "DestinationRule",
        policy(tunnel={"targetHost": "a.b", "targetPort": 0}),
        "spec.trafficPolicy.tunnel.targetPort",
        "1-65535",
    ),
    (
        "DestinationRule",
        {"host": "a", "workloadSelector": {"matchLabels": {"a": "b"}}, "exportTo": ["*"]},
        "spec.exportTo",
        "beyond",
    ),
    # ServiceEntry, WorkloadEntry, WorkloadGroup
    ("ServiceEntry", entry(addresses=["1.2.3.4/99"]), "spec.addresses[0]", "CIDR"),
    ("ServiceEntry", entry(hosts=["foo*"]), "spec.hosts[0]", "not valid"),
    (
        "ServiceEntry",
        entry(ports=[{"number": 80, "name": "http", "protocol": "HTTPP"}]),
        "spec.ports[0].protocol",
        "unsupported",
    ),
    ("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "b.com"}]), "spec.endpoints[0].address", "not an IP"),
    (
        "ServiceEntry",
        entry(resolution="STATIC", endpoints=[{"address": "1.1.1.1", "ports": {"x": 1}}]),
        "spec.endpoints[0].ports.x",
        "not defined",
    ),
    ("ServiceEntry", entry(resolution="DNS", hosts=["*.a.com"]), "spec.hosts[0]", "no endpoints"),
    ("ServiceEntry", entry(resolution="DYNAMIC_DNS"), "spec.hosts[0]", "wildcarded"),
    ("ServiceEntry", entry(exportTo=["~", "a"]), "spec.exportTo", "nobody"),
    (
        "ServiceEntry",
        entry(hosts=["a.com", "b.com"], resolution="DNS", ports=[{"number": 1, "name": "t", "protocol": "TCP"}]),
        "spec.hosts",
        "multiple hosts",
    ),
    ("WorkloadEntry", {"address": "a_b"}, "spec.address", "neither"),
    (
        "WorkloadGroup",
        {"template": {}, "probe": {"httpGet": {"port": 80, "scheme": "FTP"}}},
        "spec.probe.httpGet.scheme",
        "scheme",
    ),
    ("WorkloadGroup", {"template": {}, "probe": {"periodSeconds": 1}}, "spec.probe", "needs"),
    # Gateway, Sidecar
    ("Gateway", {}, "spec.servers", "at least one server"),
    ("Gateway", server(hosts=[]), "spec.servers[0].hosts", "at least one host"),
    ("Gateway", server(hosts=["reviews"]), "spec.servers[0].hosts[0]", "short"),
    ("Gateway", server(hosts=["a_b/x.com"]), "spec.servers[0].hosts[0]", "namespace"),
    ("Gateway", server(tls={"mode": "SIMPLE", "credentialName": "a"}), "spec.servers[0].tls", "plain text"),
    ("Gateway", server(port={"number": 443, "name": "x", "protocol": "HTTPS"}), "spec.servers[0].tls", "must have TLS"),
    (
        "Gateway",
        server(port={"number": 443, "name": "x", "protocol": "HTTPS"}, tls={"mode": "SIMPLE"}),
        "spec.servers[0].tls.serverCertificate",
        "requires",
    ),
    (
        "Gateway",
        server(port={"number": 443, "name": "x", "protocol": "HTTPS"}, tls={"mode": "ISTIO_MUTUAL", "credentialName": "a"}),
        "spec.servers[0].tls.credentialName",
        "ISTIO_MUTUAL",
    ),
    ("Gateway", {"servers": server()["servers"] * 2}, "spec.servers[1].port.name", "unique"),
    ("Sidecar", {}, "spec", "empty"),
    ("Sidecar", egress("reviews"), "spec.egress[0].hosts[0]", "namespace/dnsName"),
    ("Sidecar", egress("*/*x.com"), "spec.egress[0].hosts[0]", "partial wildcard"),
    ("Sidecar", {"egress": [{"hosts": ["*/*"]}, {"hosts": ["*/*"]}]}, "spec.egress[0]", "last one"),
    (
        "Sidecar",
        {"ingress": [{"port": {"number": 80, "protocol": "HTTP"}, "defaultEndpoint": "8.8.8.8:80"}]},
        "spec.ingress[0].defaultEndpoint",
        "127.0.0.1",
    ),
    (
        "Sidecar",
        {"outboundTrafficPolicy": {"egressProxy": {"host": "a.b", "port": {"number": 1}}}},
        "spec.outboundTrafficPolicy.egressProxy",
        "ALLOW_ANY",
    ),
    # Security
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
    # Telemetry, extensions
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


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
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
    (
        "DestinationRule",
        policy(loadBalancer={"consistentHash": {"httpCookie": {"name": "u", "ttl": "0s"}, "maglev": {"tableSize": 65537}}}),
    ),
    (
        "DestinationRule",
        policy(loadBalancer={"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"a/b": 80, "a/c": 20}}]}}),
    ),
    ("DestinationRule", {"host": "*.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}),
    ("ServiceEntry", entry(resolution="DNS")),
    (
        "ServiceEntry",
        entry(resolution="STATIC", endpoints=[{"address": "1.1.1.1", "ports": {"http": 8080}}, {"address": "::1"}]),
    ),
    ("ServiceEntry", entry(resolution="STATIC", endpoints=[{"address": "unix:///var/run/a.sock"}])),
    ("Gateway", server()),
    (
        "Gateway",
        server(
            port={"number": 443, "name": "x", "protocol": "HTTPS"},
            hosts=["./a.com"],
            tls={"mode": "SIMPLE", "credentialName": "c"},
        ),
    ),
    ("Sidecar", egress("./*", "istio-system/*", "~other/reviews.other.svc")),
    ("Sidecar", {"ingress": [{"port": {"number": 80, "protocol": "HTTP", "name": "a"}, "defaultEndpoint": "127.0.0.1:8080"}]}),
    ("AuthorizationPolicy", {}),
    ("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}),
    ("PeerAuthentication", {"mtls": {"mode": "STRICT"}}),
]


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
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


def test_the_error_names_the_line_of_the_field() -> None:
    """Not only that something is wrong."""
    text = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\n"
        "spec:\n  portLevelMtls:\n    80: {mode: STRICT}\n"
    )
    (found,) = objects.read(yaml.load(text, "p.yaml")[0])
    with pytest.raises(validate.InvalidObject, match=r"p\.yaml:6: spec\.portLevelMtls: portLevelMtls requires selector"):
        validate.check(found)


def test_kinds_that_are_only_kept_are_not_judged() -> None:
    """A Deployment is Kubernetes' matter."""
    data = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": "x"}}
    (found,) = objects.read(yaml.Document(data))
    assert validate.mistakes(found) == []


@pytest.mark.parametrize(
    ("text", "good"), [("a.b.", True), ("a..b", False), ("1.2.3", False), ("A-1.b", True), ("-a", False), ("a" * 64, False)]
)
def test_a_host_is_made_of_dns_labels(text: str, good: bool) -> None:
    """The last one may not be a number: that would be an address."""
    assert (formats.fqdn(text) == "") is good


@pytest.mark.parametrize(
    ("text", "good"), [("*", True), ("*.a", True), ("*a.b", True), ("*-a.b", True), ("a*.b", False), ("a.*", False)]
)
def test_a_wildcard_stands_at_the_beginning(text: str, good: bool) -> None:
    """Only in the first label."""
    assert (formats.wildcard_host(text) == "") is good
