"""What is wrong between objects that are each valid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib_control.analyze import analyze, unreachable
from meshlib_control.intake import accept
from meshlib_control.kinds import StringMatch
from meshlib_control.kinds.virtual_service import HttpMatch
from meshlib_control.model import Instance, Service, ServicePort, Severity, World
from tests.support import worlds

SAMPLES = Path(__file__).parents[3] / "shared" / "conformance" / "istio" / "samples" / "bookinfo" / "networking"
BOOKINFO = {"productpage": ("v1",), "details": ("v1",), "reviews": ("v1", "v2", "v3"), "ratings": ("v1",)}


def service(name: str, *versions: str, ports: tuple[int, ...] = (9080,)) -> Service:
    instances = tuple(
        Instance("127.0.0.1", 9000 + number, {"app": name, "version": version}, namespace="default")
        for number, version in enumerate(versions)
    )
    host = f"{name}.default.svc.cluster.local"
    return Service(host, "default", tuple(map(ServicePort, ports)), dict.fromkeys(ports, instances))


def world(*texts: str, services: tuple[Service, ...] | None = None) -> World:
    known = services if services is not None else tuple(service(name, *versions) for name, versions in BOOKINFO.items())
    found = [one for number, text in enumerate(texts) for one in accept(text, f"{number}.yaml")]
    dated = [replace(one, created=float(age)) for age, one in enumerate(found)]
    return World(objects={one.key: one for one in dated}, services={one.hostname: one for one in known})


def told(*texts: str) -> list[tuple[str, str, str]]:
    return [(one.code, str(one.object), one.field) for one in analyze(world(*texts))]


def virtual_service(http: str, *, name: str = "reviews", host: str = "reviews", more: str = "") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}}}\nspec:\n  hosts: [{host}]\n{more}  http:\n{http}"
    )


def rule(*subsets: str, host: str = "reviews", name: str = "reviews") -> str:
    rows = "".join(f"  - name: {one}\n    labels: {{version: {one}}}\n" for one in subsets)
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
        f"metadata: {{name: {name}}}\nspec:\n  host: '{host}'\n" + (f"  subsets:\n{rows}" if subsets else "")
    )


def peer(name: str, *, namespace: str = "default", selector: str = "") -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  mtls: {{mode: STRICT}}\n{selector}"
    )


TO_REVIEWS = "  - route:\n    - destination: {host: reviews}\n"


def test_a_healthy_mesh_gives_no_findings() -> None:
    """Routes lead to subsets that run."""
    route = "  - route:\n    - destination: {host: reviews, subset: v1, port: {number: 9080}}\n"
    assert told(virtual_service(route), rule("v1", "v2")) == []


@pytest.mark.parametrize(
    ("destination", "field", "advice"),
    [
        ("{host: revews}", "host", "did you mean reviews?"),
        ("{host: nowhere.example.com}", "host", "ServiceEntry"),
        ("{host: reviews.other}", "host", "did you mean"),
        ("{host: reviews, subset: v9}", "subset", "known subsets: v1, v2"),
        ("{host: ratings, subset: v1}", "subset", "apply a DestinationRule"),
        ("{host: reviews, port: {number: 80}}", "port.number", "known ports: 9080"),
    ],
)
def test_a_destination_that_is_not_there_is_an_error(destination: str, field: str, advice: str) -> None:
    """IST0101, with the likely one or what to do."""
    text = virtual_service(f"  - route:\n    - destination: {destination}\n")
    (finding,) = analyze(world(text, rule("v1", "v2")))
    assert (finding.code, finding.severity) == ("IST0101", Severity.ERROR)
    assert finding.field == f"spec.http[0].route[0].destination.{field}"
    assert (finding.file, finding.line) == ("0.yaml", 8)
    assert advice in finding.advice


def test_mirrors_and_delegates_are_looked_at_too() -> None:
    """They are references like others."""
    http = f"{TO_REVIEWS}    mirror: {{host: a}}\n    mirrors: []\n  - delegate: {{name: b}}\n    match: [{{port: 1}}]\n"
    assert ("IST0101", "VirtualService default/reviews", "spec.http[0].mirror.host") in told(virtual_service(http))
    assert ("IST0101", "VirtualService default/reviews", "spec.http[1].delegate") in told(virtual_service(http))


def test_a_rule_for_a_host_that_nobody_serves_is_a_warning() -> None:
    """The rule is never asked."""
    (finding,) = analyze(world(virtual_service(TO_REVIEWS, host="reveiws")))
    assert (finding.code, finding.severity, finding.field) == ("IST0101", Severity.WARNING, "spec.hosts[0]")


def test_files_alone_say_nothing_of_hosts() -> None:
    """Without a running mesh nobody knows which hosts there are; subsets are in the files."""
    route = "  - route:\n    - destination: {host: anything, subset: v1}\n"
    found = analyze(world(virtual_service(route), rule("v1"), services=()))
    assert [one.field for one in found] == ["spec.http[0].route[0].destination.subset"]


def test_a_gateway_that_is_not_there_is_an_error() -> None:
    """By name in the own namespace, or with a namespace."""
    text = virtual_service(TO_REVIEWS, more="  gateways: [mesh, front, other/back]\n")
    gateway = (
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: front}\n"
        "spec: {servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}]}\n"
    )
    assert told(text, gateway) == [("IST0101", "VirtualService default/reviews", "spec.gateways[2]")]


def test_a_service_with_several_ports_needs_one_named() -> None:
    """IST0112."""
    two_ports = service("reviews", "v1", ports=(80, 9080))
    (finding,) = analyze(world(virtual_service(TO_REVIEWS), services=(two_ports,)))
    assert (finding.code, finding.field) == ("IST0112", "spec.http[0].route[0].destination")


def test_two_virtual_services_for_one_host_get_into_each_others_way() -> None:
    """IST0109 for both, however the host was written; not if no client sees both."""
    short, full = virtual_service(TO_REVIEWS), virtual_service(TO_REVIEWS, name="b", host="reviews.default.svc.cluster.local")
    assert told(short, full) == [
        ("IST0109", "VirtualService default/reviews", "spec.hosts"),
        ("IST0109", "VirtualService default/b", "spec.hosts"),
    ]
    apart = virtual_service(TO_REVIEWS, more="  exportTo: [east]\n")
    other = virtual_service(TO_REVIEWS, name="b", more="  exportTo: [west]\n")
    assert told(apart, other) == []
    at_gateway = virtual_service(TO_REVIEWS, name="b", more="  gateways: [g]\n")
    assert "IST0109" not in {code for code, _, _ in told(short, at_gateway)}


def test_a_subset_that_runs_nowhere_is_a_warning() -> None:
    """IST0173: requests would be answered 503 UH."""
    assert told(rule("v1", "v9")) == [("IST0173", "DestinationRule default/reviews", "spec.subsets[1]")]


def test_a_destination_rule_for_an_unknown_host_is_a_warning() -> None:
    """IST0174; a wildcard that covers a service is fine."""
    assert told(rule(host="nobody")) == [("IST0174", "DestinationRule default/reviews", "spec.host")]
    assert told(rule(host="*.default.svc.cluster.local")) == []


def test_a_policy_for_nobody_is_a_warning() -> None:
    """IST0127: the selector's labels are nowhere in the namespace."""
    selector = "  selector: {matchLabels: {app: revews}}\n"
    assert told(peer("a", selector=selector)) == [("IST0127", "PeerAuthentication default/a", "spec.selector")]
    policy = f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec:\n{selector}"
    assert told(policy) == [("IST0127", "AuthorizationPolicy default/a", "spec.selector")]
    assert told(policy.replace("revews", "reviews")) == []


def test_a_mesh_configuration_that_the_control_plane_does_not_follow_is_an_error() -> None:
    """MSH0004: the trust domain is in every certificate and comes from the command line."""
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    for domain, codes in (("old", ["MSH0004"]), ("cluster.local", [])):
        found = worlds.world(f"{head}data: {{mesh: 'trustDomain: {domain}'}}\n")
        assert [one.code for one in analyze(found)] == codes


def test_a_policy_for_somebody_is_fine() -> None:
    """The near miss of IST0127."""
    assert told(peer("a", selector="  selector: {matchLabels: {app: reviews}}\n")) == []


def test_of_two_policies_for_the_same_workloads_the_younger_has_no_impact() -> None:
    """IST0167: the oldest one counts; also for a selector in the root namespace, which Istio ignores."""
    assert told(peer("old"), peer("young")) == [("IST0167", "PeerAuthentication default/young", "")]
    selector = "  selector: {matchLabels: {app: reviews}}\n"
    found = told(peer("a", namespace="istio-system", selector=selector))
    assert ("IST0167", "PeerAuthentication istio-system/a", "spec.selector") in found


def test_a_host_declared_with_two_protocols_is_a_warning() -> None:
    """IST0177."""
    text = (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {0}}}\n"
        "spec: {{hosts: [a.com], resolution: DNS, ports: [{{number: 80, name: x, protocol: {1}}}]}}\n"
    )
    assert told(text.format("a", "HTTP"), text.format("b", "TCP")) == [
        ("IST0177", "ServiceEntry default/b", "spec.ports[0].protocol")
    ]


def test_a_rule_after_a_catch_all_is_unreachable() -> None:
    """IST0130; with the rule that takes everything."""
    (finding,) = analyze(world(virtual_service(f"{TO_REVIEWS}    name: all\n{TO_REVIEWS}")))
    assert (finding.code, finding.field, finding.line) == ("IST0130", "spec.http[1]", 10)
    assert "rule all" in finding.message


def test_a_match_that_an_earlier_rule_takes_is_ineffective() -> None:
    """IST0131, if other matches of the rule are still reached."""
    first = "  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: reviews}}]\n"
    second = "  - match: [{uri: {exact: /a/b}}, {uri: {exact: /c}}]\n    route: [{destination: {host: reviews}}]\n"
    (finding,) = analyze(world(virtual_service(first + second)))
    assert (finding.code, finding.severity, finding.field) == ("IST0131", Severity.INFO, "spec.http[1].match[0]")


def exact(text: str) -> StringMatch:
    return StringMatch(exact=text)


def prefix(text: str) -> StringMatch:
    return StringMatch(prefix=text)


@pytest.mark.parametrize(
    ("match", "earlier", "covered"),
    [
        (HttpMatch(), HttpMatch(), True),
        (HttpMatch(uri=exact("/a")), HttpMatch(), True),
        (HttpMatch(), HttpMatch(uri=exact("/a")), False),
        (HttpMatch(), HttpMatch(uri=prefix("/")), True),
        (HttpMatch(uri=prefix("/ab")), HttpMatch(uri=prefix("/a")), True),
        (HttpMatch(uri=prefix("/a")), HttpMatch(uri=prefix("/ab")), False),
        (HttpMatch(uri=prefix("/a")), HttpMatch(uri=exact("/a")), False),
        (HttpMatch(uri=StringMatch(regex="a.*")), HttpMatch(uri=StringMatch(regex="a.*")), True),
        (HttpMatch(uri=StringMatch(regex="ab.*")), HttpMatch(uri=StringMatch(regex="a.*")), False),
        (HttpMatch(uri=exact("/x")), HttpMatch(uri=StringMatch(regex=".*")), True),
        (HttpMatch(uri=exact("/A")), HttpMatch(uri=exact("/a"), ignore_uri_case=True), True),
        (HttpMatch(uri=exact("/a"), ignore_uri_case=True), HttpMatch(uri=exact("/a")), False),
        (HttpMatch(headers={"a": exact("x")}), HttpMatch(headers={"a": StringMatch()}), True),
        (HttpMatch(headers={"a": StringMatch()}), HttpMatch(headers={"a": exact("x")}), False),
        (HttpMatch(headers={"a": exact("x"), "b": exact("y")}), HttpMatch(headers={"a": exact("x")}), True),
        (HttpMatch(), HttpMatch(without_headers={"a": StringMatch()}), False),
        (HttpMatch(without_headers={"a": StringMatch()}), HttpMatch(), True),
        (HttpMatch(port=80), HttpMatch(), True),
        (HttpMatch(), HttpMatch(port=80), False),
        (HttpMatch(source_labels={"a": "b"}), HttpMatch(), True),
        (HttpMatch(), HttpMatch(source_labels={"a": "b"}), False),
        (HttpMatch(gateways=("g",)), HttpMatch(gateways=("g", "mesh")), True),
        (HttpMatch(), HttpMatch(gateways=("mesh",)), False),
        (HttpMatch(method=exact("GET")), HttpMatch(method=exact("POST")), False),
    ],
)
def test_a_match_is_covered_if_its_conditions_follow(match: HttpMatch, earlier: HttpMatch, covered: bool) -> None:
    """And only then: a false alarm would be worse than none."""
    assert unreachable.covered(match, earlier) is covered


TEXTS = st.text("/ab", max_size=3).map(exact) | st.text("/ab", max_size=3).map(prefix)
MATCHES = st.builds(
    HttpMatch,
    uri=st.none() | TEXTS,
    method=st.none() | st.sampled_from([exact("GET"), exact("POST")]),
    headers=st.dictionaries(st.sampled_from("xy"), TEXTS, max_size=2),
    ignore_uri_case=st.booleans(),
)


def fulfils(match: HttpMatch, path: str, method: str, headers: dict[str, str]) -> bool:
    """A naive matcher."""

    def compare(text: StringMatch | None, value: str | None, fold: bool = False) -> bool:
        if text is None:
            return True
        if value is None:
            return False
        wanted = text.exact if text.exact is not None else text.prefix or ""
        value, wanted = (value.lower(), wanted.lower()) if fold else (value, wanted)
        return value == wanted if text.exact is not None else value.startswith(wanted)

    return (
        compare(match.uri, path, match.ignore_uri_case)
        and compare(match.method, method)
        and all(compare(text, headers.get(name)) for name, text in match.headers.items())
    )


@given(
    match=MATCHES,
    earlier=MATCHES,
    path=st.text("/abAB", max_size=3).map("/".__add__),
    method=st.sampled_from(["GET", "POST"]),
    headers=st.dictionaries(st.sampled_from("xy"), st.text("/ab", max_size=3), max_size=2),
)
def test_no_request_contradicts_what_is_called_covered(
    match: HttpMatch, earlier: HttpMatch, path: str, method: str, headers: dict[str, str]
) -> None:
    """If a request fulfils a covered match, it fulfils the earlier one: against a naive matcher."""
    if unreachable.covered(match, earlier) and fulfils(match, path, method, headers):
        assert fulfils(earlier, path, method, headers)


def test_deprecated_fields_are_named_with_their_successor() -> None:
    """IST0002."""
    http = f"{TO_REVIEWS}    fault: {{delay: {{fixedDelay: 1s, percent: 5}}}}\n"
    policy = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: reviews\n"
    policy += "  trafficPolicy: {loadBalancer: {simple: LEAST_CONN}, outlierDetection: {consecutiveErrors: 5}}\n"
    found = {one.field: one for one in analyze(world(virtual_service(http), policy))}
    assert {one.code for one in found.values()} == {"IST0002"}
    assert found["spec.http[0].fault.delay.percent"].advice == "use percentage.value"
    assert found["spec.trafficPolicy.loadBalancer.simple"].advice == "use LEAST_REQUEST"
    assert "consecutive5xxErrors" in found["spec.trafficPolicy.outlierDetection.consecutiveErrors"].advice


def test_weights_that_are_no_percentages_are_explained() -> None:
    """They are shares of their sum: information only."""
    http = "  - route:\n    - {destination: {host: reviews}, weight: 1}\n    - {destination: {host: ratings}, weight: 3}\n"
    (finding,) = analyze(world(virtual_service(http)))
    assert (finding.code, finding.severity) == ("MSH0003", Severity.INFO)
    assert "25%, 75%" in finding.message


def test_the_worst_comes_first() -> None:
    """Errors, warnings, information; then by file and line."""
    http = "  - route:\n    - {destination: {host: nobody}, weight: 1}\n    - {destination: {host: reviews}, weight: 3}\n"
    severities = [one.severity for one in analyze(world(virtual_service(http), rule("v9")))]
    assert severities == [Severity.ERROR, Severity.WARNING, Severity.INFO]


@pytest.mark.parametrize(
    "names",
    [
        ("destination-rule-all.yaml", "virtual-service-all-v1.yaml"),
        ("destination-rule-all-mtls.yaml", "virtual-service-reviews-80-20.yaml"),
        ("destination-rule-reviews.yaml", "virtual-service-reviews-jason-v2-v3.yaml"),
    ],
)
def test_istios_bookinfo_has_no_errors(names: tuple[str, ...]) -> None:
    """Only subsets of versions that do not run are mentioned."""
    if not SAMPLES.is_dir():
        pytest.skip("no conformance data")
    found = analyze(world(*((SAMPLES / name).read_text() for name in names)))
    assert {one.code for one in found} <= {"IST0173"}


def test_istios_egress_sample_has_no_errors() -> None:
    """Its destinations are its own ServiceEntry."""
    if not SAMPLES.is_dir():
        pytest.skip("no conformance data")
    google = Service("www.googleapis.com", "default", (ServicePort(80), ServicePort(443)), {}, external=True)
    found = analyze(world((SAMPLES / "egress-rule-google-apis.yaml").read_text(), services=(google,)))
    assert found == []
