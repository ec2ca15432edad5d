"""Destinations, services, gateways and sidecars: Istio's rules, each by the smallest object that breaks it."""

from __future__ import annotations

from typing import Any

from tests.support.mistaken import each_accepted, each_refused, mistakes


def policy(**parts: Any) -> dict[str, Any]:
    return {"host": "reviews", "trafficPolicy": parts}


def entry(**parts: Any) -> dict[str, Any]:
    return {"hosts": ["a.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], **parts}


def server(**parts: Any) -> dict[str, Any]:
    return {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"], **parts}]}


def egress(*hosts: str) -> dict[str, Any]:
    return {"egress": [{"hosts": list(hosts)}]}


REFUSED: list[tuple[str, Any, str, str]] = [
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
]


@each_refused(REFUSED)
def test_a_broken_rule_is_named_with_its_field(kind: str, spec: Any, field: str, words: str) -> None:
    """Each of Istio's rules, by the smallest object that breaks it."""
    found = mistakes(kind, spec)
    assert [mistake for mistake in found if mistake.field == field and words in mistake.problem], found


ACCEPTED: list[tuple[str, Any]] = [
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
]


@each_accepted(ACCEPTED)
def test_what_istio_allows_is_allowed(kind: str, spec: Any) -> None:
    """The near misses of the rules."""
    assert mistakes(kind, spec) == []
