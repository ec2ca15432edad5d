"""What is accepted but does nothing yet, and the status that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshlib_control import effective, status
from meshlib_control.intake import accept
from meshlib_control.kinds import KINDS
from meshlib_control.model import Finding, MeshObject, Severity

SAMPLES = Path(__file__).parents[3] / "shared" / "conformance" / "istio" / "samples" / "bookinfo"
HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n"
ROUTE = "  - route:\n    - destination: {host: reviews}\n"

# Every document of Istio's Bookinfo that is not wholly effective: file, object, and where (empty: all of it).
GOLDEN = """\
gateway-api/bookinfo-gateway.yaml Gateway default/bookinfo-gateway
gateway-api/bookinfo-gateway.yaml HTTPRoute default/bookinfo
gateway-api/route-all-v1.yaml HTTPRoute default/details
gateway-api/route-all-v1.yaml HTTPRoute default/productpage
gateway-api/route-all-v1.yaml HTTPRoute default/ratings
gateway-api/route-all-v1.yaml HTTPRoute default/reviews
gateway-api/route-reviews-50-v3.yaml HTTPRoute default/reviews
gateway-api/route-reviews-90-10.yaml HTTPRoute default/reviews
gateway-api/route-reviews-v1.yaml HTTPRoute default/reviews
gateway-api/route-reviews-v3.yaml HTTPRoute default/reviews
networking/bookinfo-gateway.yaml Gateway default/bookinfo-gateway
networking/bookinfo-gateway.yaml VirtualService default/bookinfo spec.gateways
networking/certmanager-gateway.yaml Gateway istio-system/cert-manager-gateway
networking/certmanager-gateway.yaml VirtualService istio-system/cert-manager spec.gateways
networking/egress-rule-google-apis.yaml DestinationRule default/originate-tls-for-googleapis \
spec.trafficPolicy.portLevelSettings[0].tls.mode
networking/egress-rule-google-apis.yaml ServiceEntry default/googleapis spec.ports[1].protocol
policy/productpage_envoy_ratelimit.yaml EnvoyFilter istio-system/filter-ratelimit spec.configPatches[0]
policy/productpage_envoy_ratelimit.yaml EnvoyFilter istio-system/filter-ratelimit-svc spec.configPatches[0]
"""


def findings(text: str) -> list[Finding]:
    return effective.findings(accept(text, "f.yaml"))


def fields(text: str) -> list[str]:
    return [finding.field for finding in findings(text)]


def sample_files() -> list[Any]:
    if not SAMPLES.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no conformance data"))]
    return [pytest.param(file, id=str(file.relative_to(SAMPLES))) for file in sorted(SAMPLES.rglob("*.yaml"))]


@pytest.mark.parametrize("file", sample_files())
def test_every_file_of_istios_bookinfo_applies_or_says_what_is_not_effective(file: Path) -> None:
    """Unmodified; what is idle is on the golden list, and nothing else is."""
    name = str(file.relative_to(SAMPLES))
    found = effective.findings(accept(file.read_text(), name))
    idle = {f"{name} {one.object} {one.field}".strip() for one in found if one.code == effective.NOT_EFFECTIVE}
    assert idle == {row for row in GOLDEN.splitlines() if row.startswith(f"{name} ")}
    assert all(one.line > 0 for one in found)


def test_the_golden_list_names_files_that_exist() -> None:
    """No row is a leftover."""
    if not SAMPLES.is_dir():
        pytest.skip("no conformance data")
    assert all((SAMPLES / row.split()[0]).is_file() for row in GOLDEN.splitlines())


def test_kubernetes_own_objects_are_kept_and_not_used() -> None:
    """That is information, not a warning."""
    (finding,) = findings("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n")
    assert (finding.code, finding.severity) == (effective.NOT_USED, Severity.INFO)


def test_what_is_honoured_gives_no_finding() -> None:
    """All that the engine obeys, in one object."""
    text = f"""{HEAD}  exportTo: [.]
  gateways: [mesh]
  http:
  - name: a
    match:
    - name: m
      uri: {{regex: "/a.*"}}
      scheme: {{exact: http}}
      method: {{exact: GET}}
      authority: {{prefix: reviews}}
      headers: {{end-user: {{exact: jason}}}}
      withoutHeaders: {{x: {{}}}}
      queryParams: {{q: {{exact: "1"}}}}
      ignoreUriCase: true
      sourceLabels: {{app: productpage}}
      sourceNamespace: default
      port: 9080
      gateways: [mesh]
    route:
    - destination: {{host: reviews, subset: v1, port: {{number: 9080}}}}
      weight: 100
    timeout: 1s
    retries: {{attempts: 2, perTryTimeout: 1s, retryOn: 5xx, backoff: 25ms, retryIgnorePreviousHosts: false}}
    fault:
      delay: {{fixedDelay: 1s, percentage: {{value: 1}}}}
      abort: {{httpStatus: 500, percentage: {{value: 1}}}}
"""
    assert findings(text) == []


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("    mirror: {host: b}\n", "spec.http[0].mirror"),
        ("    rewrite: {uri: /}\n", "spec.http[0].rewrite"),
        ("    corsPolicy: {allowMethods: [GET]}\n", "spec.http[0].corsPolicy"),
        ("    headers: {request: {set: {a: b}}}\n", "spec.http[0].headers"),
        ("      headers: {request: {set: {a: b}}}\n", "spec.http[0].route[0].headers"),
        ("    retries: {attempts: 1, retryRemoteLocalities: true}\n", "spec.http[0].retries.retryRemoteLocalities"),
        ("    match: [{statPrefix: a}]\n", "spec.http[0].match[0].statPrefix"),
        ("    match: [{gateways: [g]}]\n", "spec.http[0].match[0].gateways"),
        ("  - redirect: {uri: /}\n", "spec.http[1].redirect"),
        ("  - directResponse: {status: 200}\n", "spec.http[1].directResponse"),
        ("  tcp: [{route: [{destination: {host: a}}]}]\n", "spec.tcp"),
        ("  gateways: [mesh, g]\n", "spec.gateways"),
    ],
)
def test_each_idle_field_of_a_virtual_service_is_named(part: str, field: str) -> None:
    """By its outermost part that does nothing, with its line."""
    (finding,) = findings(f"{HEAD}  http:\n{ROUTE}{part}")
    assert (finding.field, finding.code, finding.line) == (field, effective.NOT_EFFECTIVE, 9)
    assert "not effective yet" in finding.message


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("loadBalancer: {simple: RANDOM}", None),
        ("connectionPool: {tcp: {connectTimeout: 1s}}", None),
        ("tls: {mode: DISABLE}", None),
        ("tls: {mode: ISTIO_MUTUAL, subjectAltNames: [a]}", None),
        ("tls: {mode: SIMPLE}", "spec.trafficPolicy.tls.mode"),
        ("tls: {mode: ISTIO_MUTUAL, sni: a.b}", "spec.trafficPolicy.tls.sni"),
        ("outlierDetection: {consecutive5xxErrors: 1}", None),
        ("connectionPool: {http: {maxRetries: 1}, tcp: {maxConnections: 1}}", None),
        ("connectionPool: {http: {maxConcurrentStreams: 1}}", "spec.trafficPolicy.connectionPool.http.maxConcurrentStreams"),
        ("retryBudget: {percent: 10}", None),
        ("retryBudget: {budgetInterval: 1s}", "spec.trafficPolicy.retryBudget.budgetInterval"),
        ("loadBalancer: {consistentHash: {useSourceIp: true}}", "spec.trafficPolicy.loadBalancer.consistentHash"),
        ("portLevelSettings: [{port: {number: 1}, tls: {mode: DISABLE}}]", None),
        (
            "portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE}}]",
            "spec.trafficPolicy.portLevelSettings[0].tls.mode",
        ),
    ],
)
def test_a_traffic_policy_says_what_it_cannot_do_yet(part: str, field: str | None) -> None:
    """Fields one by one, and values of fields that are obeyed in part."""
    head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n"
    assert fields(f"{head}  trafficPolicy:\n    {part}\n") == ([field] if field else [])
    in_subset = field and field.replace("spec.", "spec.subsets[0].", 1)
    text = f"{head}  subsets:\n  - name: v1\n    labels: {{version: v1}}\n    trafficPolicy:\n      {part}\n"
    assert fields(text) == ([in_subset] if in_subset else [])


def test_a_service_entry_routes_http_to_ip_addresses_and_dns_names() -> None:
    """Other protocols, virtual addresses and sockets are not effective yet."""
    text = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.com]
  addresses: [10.0.0.1]
  ports:
  - {number: 80, name: http, protocol: http}
  - {number: 443, name: tls, protocol: TLS}
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints:
  - {address: 1.2.3.4, labels: {a: b}, weight: 2, network: far}
"""
    assert sorted(fields(text)) == ["spec.addresses", "spec.endpoints[0].network", "spec.ports[1].protocol"]


def policy(kind: str, spec: str) -> str:
    return f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("RequestAuthentication", "{jwtRules: [{issuer: a, presence: REQUIRED}]}", "spec.jwtRules[0].presence"),
        (
            "RequestAuthentication",
            "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}}",
            "spec.targetRef.kind",
        ),
        ("AuthorizationPolicy", "{action: CUSTOM, provider: {name: a}, rules: [{}]}", "spec.action"),
        (
            "AuthorizationPolicy",
            "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}}",
            "spec.targetRef.kind",
        ),
    ],
)
def test_a_policy_that_does_not_protect_as_written_is_an_error(kind: str, spec: str, field: str) -> None:
    """Who relies on it must not overlook it."""
    (finding,) = findings(policy(kind, spec))
    assert (finding.severity, finding.field) == (Severity.ERROR, field)


def test_an_authorization_policy_is_honoured_whole() -> None:
    """Every field of a rule, and both ways to say for whom it is."""
    rule = (
        "{from: [{source: {principals: [a]}}], to: [{operation: {paths: [/a]}}], when: [{key: source.ip, values: [1.2.3.4]}]}"
    )
    assert findings(policy("AuthorizationPolicy", f"{{selector: {{matchLabels: {{a: b}}}}, rules: [{rule}]}}")) == []
    assert findings(policy("AuthorizationPolicy", "{action: DENY, targetRefs: [{kind: Service, name: a}], rules: [{}]}")) == []


def test_a_request_authentication_is_honoured_whole() -> None:
    """Every field of a rule but a presence that is required."""
    rule = (
        "{issuer: a, audiences: [b], jwksUri: 'http://a', fromHeaders: [{name: c, prefix: d}], fromParams: [e], "
        "fromCookies: [f], "
        "outputPayloadToHeader: g, forwardOriginalToken: true, outputClaimToHeaders: [{header: h, claim: i}], timeout: 1s, "
        "spaceDelimitedClaims: [j], presence: OPTIONAL}"
    )
    assert findings(policy("RequestAuthentication", f"{{selector: {{matchLabels: {{a: b}}}}, jwtRules: [{rule}]}}")) == []


def test_fields_of_the_mesh_configuration_that_do_nothing_yet_are_named() -> None:
    """They are inside a text; the line is where it begins."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n"
    (finding,) = findings(f"{text}    trustDomainAliases: [old]\n    accessLogFile: /dev/stdout\n")
    assert (finding.field, finding.line, finding.code) == ("data.mesh.accessLogFile", 5, effective.NOT_EFFECTIVE)


def test_a_delegate_is_not_effective_yet() -> None:
    """It has no hosts of its own."""
    text = HEAD.replace("  hosts: [reviews]\n", "") + f"  http:\n{ROUTE}"
    assert [(one.field, one.code) for one in findings(text)] == [("", effective.NOT_EFFECTIVE)]


def test_what_is_not_set_is_not_worth_a_word() -> None:
    """False, 0 and empty are defaults."""
    part = "    mirrors: []\n    retries: {attempts: 1, retryRemoteLocalities: false}\n"
    assert findings(f"{HEAD}  http:\n{ROUTE}{part}") == []


def paths(spec: Any, path: str = "spec") -> set[str]:
    """Every path pattern of a struct."""
    found = {path}
    node = spec if isinstance(spec, msgspec.inspect.Type) else msgspec.inspect.type_info(spec)
    match node:
        case msgspec.inspect.Metadata(type=inner):
            found |= paths(inner, path)
        case msgspec.inspect.UnionType(types=types):
            found |= {one for inner in types for one in paths(inner, path)}
        case msgspec.inspect.VarTupleType(item_type=inner):
            found |= paths(inner, f"{path}[]")
        case msgspec.inspect.StructType(fields=parts):
            found |= {one for part in parts for one in paths(part.type, f"{path}.{part.encode_name}")}
    return found


@pytest.mark.parametrize("kind", sorted(effective.HONOURED))
def test_the_tables_name_fields_that_exist(kind: str) -> None:
    """A path with a typing error would honour nothing, silently. `port` is only where a policy is for a port."""
    (spec,) = {known.spec for known in KINDS.values() if known.name == kind and known.spec}
    listed = effective.HONOURED[kind] | set(effective.LIMITS.get(kind, {}))
    unknown = listed - paths(spec)
    assert {path for path in unknown if not path.endswith("rafficPolicy.port")} == set()


def accepted(text: str) -> MeshObject:
    (found,) = accept(text, "f.yaml")
    return found


def test_the_status_says_accepted_and_effective() -> None:
    """Conditions as Kubernetes writes them."""
    assert [(one.type, one.status) for one in status.conditions([])] == [
        ("Accepted", True),
        ("Effective", True),
        ("Healthy", True),
    ]


def test_the_status_tells_partly_from_not_at_all() -> None:
    """And names the fields."""
    partly = status.conditions(findings(f"{HEAD}  http:\n{ROUTE}    mirror: {{host: b}}\n"))[1]
    assert (partly.status, partly.reason) == (False, "PartlyEffective")
    assert partly.message == "spec.http[0].mirror: mirror is not effective yet"
    whole = status.conditions(findings("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"))[1]
    assert (whole.status, whole.reason) == (False, "NotEffective")


def test_an_object_is_described_with_revision_time_and_status() -> None:
    """What `get -o yaml` prints; other objects' findings are left out; the object itself is not changed."""
    one = accepted(f"{HEAD}  http:\n{ROUTE}    mirror: {{host: b}}\n")
    about_other = findings("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n")
    document = status.described(one, [*effective.findings([one]), *about_other])
    assert document["metadata"] == {"name": "reviews", "namespace": "default", "resourceVersion": "0"}
    assert [part["status"] for part in document["status"]["conditions"]] == ["True", "False", "True"]
    assert [part["type"] for part in document["status"]["validationMessages"]] == [{"code": "MSH0001"}]
    assert "status" not in one.raw
    assert "namespace" not in one.raw["metadata"]
