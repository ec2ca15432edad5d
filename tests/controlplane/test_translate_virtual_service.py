from __future__ import annotations

from typing import Any

import pytest

from meshlib_control.model import Node, ObjectKey
from meshlib_control.translate import translate
from meshlib_control.translate.resources import ROUTE
from tests.support import worlds
from tests.support.worlds import client, listener, outbound, read, routes, world

HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME, namespace: NAMESPACE}\nspec:\n"


def virtual_service(spec: str, name: str = "reviews", namespace: str = "default") -> str:
    indented = "\n".join(f"  {line}" for line in spec.strip("\n").splitlines())
    return HEAD.replace("NAME,", f"{name},").replace("NAMESPACE", namespace) + indented + "\n---\n"


def to(subset: str) -> str:
    return f"route: [{{destination: {{host: reviews, subset: {subset}}}}}]"


def targets(found: list[Any]) -> list[str]:
    return [route.route.cluster.split("|")[2] for route in found]


def test_without_a_virtual_service_everything_goes_to_the_service_with_default_retries() -> None:
    """Istio: two retries on what is safe, no timeout."""
    (route,) = routes(world())
    assert route.match.prefix == "/"
    assert route.route.cluster == outbound("reviews")
    assert route.route.HasField("timeout")
    assert route.route.timeout.seconds == 0
    policy = route.route.retry_policy
    assert policy.retry_on == "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    assert (policy.num_retries.value, policy.host_selection_retry_max_attempts) == (2, 5)
    assert list(policy.retriable_status_codes) == []
    assert policy.retry_host_predicate[0].name == "envoy.retry_host_predicates.previous_hosts"


def test_generation_stops_at_a_route_that_matches_everything() -> None:
    """What comes after can never be reached."""
    found = routes(world(virtual_service(f"hosts: [reviews]\nhttp:\n- {to('v1')}\n- {to('v2')}")))
    assert targets(found) == ["v1"]


@pytest.mark.parametrize("uri", ["prefix: /", 'regex: ".*"'])
def test_a_match_of_every_path_is_a_catch_all_unless_it_has_more_conditions(uri: str) -> None:
    """Istio: prefix / or regex .*, without headers and query."""
    spec = f"hosts: [reviews]\nhttp:\n- match: [{{uri: {{{uri}}}}}]\n  {to('v1')}\n- {to('v2')}"
    assert targets(routes(world(virtual_service(spec)))) == ["v1"]
    with_header = spec.replace("}}]", "}, headers: {a: {exact: b}}}]", 1)
    assert targets(routes(world(virtual_service(with_header)))) == ["v1", "v2"]


def test_match_blocks_are_alternatives() -> None:
    """Each becomes a route of its own with the same action."""
    spec = f"hosts: [reviews]\nhttp:\n- match: [{{uri: {{exact: /a}}}}, {{uri: {{prefix: /b}}}}]\n  {to('v1')}\n- {to('v2')}"
    found = routes(world(virtual_service(spec)))
    assert [(route.match.path or route.match.prefix) for route in found] == ["/a", "/b", "/"]
    assert targets(found) == ["v1", "v1", "v2"]


def test_conditions_of_a_match() -> None:
    """uri, method, authority, headers, withoutHeaders, queryParams, ignoreUriCase."""
    spec = f"""
hosts: [reviews]
http:
- match:
  - uri: {{exact: /Login}}
    ignoreUriCase: true
    method: {{exact: GET}}
    authority: {{prefix: rev}}
    headers:
      End-User: {{exact: jason}}
      x-any: {{}}
      x-star: {{regex: "*"}}
      x-re: {{regex: "a+"}}
    withoutHeaders:
      x-beta: {{exact: "1"}}
      x-none: {{}}
    queryParams:
      q: {{exact: ""}}
      r: {{regex: "[0-9]+"}}
  {to("v1")}
"""
    (route,) = routes(world(virtual_service(spec)))
    match = route.match
    assert match.path == "/Login"
    assert match.HasField("case_sensitive")
    assert match.case_sensitive.value is False
    headers = {header.name: header for header in match.headers}
    assert headers[":method"].string_match.exact == "GET"
    assert headers[":authority"].string_match.prefix == "rev"
    assert headers["end-user"].string_match.exact == "jason"
    assert headers["x-any"].present_match
    assert headers["x-star"].present_match
    assert headers["x-re"].string_match.safe_regex.regex == "a+"
    assert headers["x-beta"].invert_match
    assert headers["x-beta"].treat_missing_header_as_empty
    assert headers["x-none"].invert_match
    assert headers["x-none"].present_match
    assert not headers["x-none"].treat_missing_header_as_empty
    query = {parameter.name: parameter for parameter in match.query_parameters}
    assert query["q"].string_match.WhichOneof("match_pattern") == "exact"
    assert query["r"].string_match.safe_regex.regex == "[0-9]+"


@pytest.mark.parametrize(
    ("condition", "node", "sent"),
    [
        ("sourceLabels: {app: web}", client(app="web"), True),
        ("sourceLabels: {app: web}", client(app="other"), False),
        ("sourceNamespace: default", client(), True),
        ("sourceNamespace: shop", client(), False),
        ("port: 9080", client(), True),
        ("port: 80", client(), False),
        ("gateways: [mesh]", client(), True),
        ("gateways: [ingress]", client(), False),
        ("gateways: [mesh], sourceLabels: {app: web}", client(app="other"), True),
        ("gateways: [ingress], sourceLabels: {app: web}", client(app="web"), False),
    ],
)
def test_selectors_of_a_match_decide_whether_the_client_gets_the_route_at_all(condition: str, node: Node, sent: bool) -> None:
    """They are no conditions on requests."""
    spec = f"hosts: [reviews]\nhttp:\n- match: [{{{condition}}}]\n  {to('v1')}\n- {to('v2')}"
    assert targets(routes(world(virtual_service(spec)), node=node)) == (["v1"] if sent else ["v2"])


def test_a_virtual_service_without_a_route_for_this_client_leaves_the_default() -> None:
    """As if it were not there."""
    spec = f"hosts: [reviews]\nhttp:\n- match: [{{sourceLabels: {{app: web}}}}]\n  {to('v1')}"
    (route,) = routes(world(virtual_service(spec)))
    assert (route.name, route.route.cluster) == ("default", outbound("reviews"))


def test_weights_of_zero_get_nothing_when_there_are_several() -> None:
    """And a lone destination gets everything, whatever its weight."""

    def share(subset: str, weight: int) -> str:
        return f"{{destination: {{host: reviews, subset: {subset}}}, weight: {weight}}}"

    spec = f"hosts: [reviews]\nhttp:\n- route: [{share('v1', 80)}, {share('v2', 20)}, {share('v3', 0)}]"
    (route,) = routes(world(virtual_service(spec)))
    shares = {cluster.name: cluster.weight.value for cluster in route.route.weighted_clusters.clusters}
    assert shares == {outbound("reviews", subset="v1"): 80, outbound("reviews", subset="v2"): 20}
    spec = f"hosts: [reviews]\nhttp:\n- route: [{share('v1', 100)}, {share('v3', 0)}]"
    assert targets(routes(world(virtual_service(spec)))) == ["v1"]
    assert targets(routes(world(virtual_service(f"hosts: [reviews]\nhttp:\n- route: [{share('v3', 0)}]")))) == ["v3"]


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ("{attempts: 0}", None),
        ("{attempts: 3}", ("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", [], 3)),
        ("{attempts: 1, retryOn: 'gateway-error, reset'}", ("gateway-error,reset", [], 1)),
        ("{attempts: 2, retryOn: '503,5xx, 429'}", ("5xx,retriable-status-codes", [503, 429], 2)),
        ("{attempts: 2, retryOn: 'retriable-status-codes,503'}", ("retriable-status-codes", [503], 2)),
    ],
)
def test_retries(retries: str, expected: tuple[str, list[int], int] | None) -> None:
    """retryOn replaces the default list; numbers in it are status codes; no attempts, no policy."""
    (route,) = routes(world(virtual_service(f"hosts: [reviews]\nhttp:\n- {to('v1')}\n  retries: {retries}")))
    if expected is None:
        assert not route.route.HasField("retry_policy")
        return
    policy = route.route.retry_policy
    assert (policy.retry_on, list(policy.retriable_status_codes), policy.num_retries.value) == expected


def test_timeout_and_try_timeout() -> None:
    """Durations keep their fractions."""
    spec = f"hosts: [reviews]\nhttp:\n- {to('v1')}\n  timeout: 1.5s\n  retries: {{attempts: 1, perTryTimeout: 250ms}}"
    (route,) = routes(world(virtual_service(spec)))
    assert (route.route.timeout.seconds, route.route.timeout.nanos) == (1, 500_000_000)
    assert route.route.retry_policy.per_try_timeout.nanos == 250_000_000


def fault_of(spec: str) -> Any | None:
    (route,) = routes(world(virtual_service(f"hosts: [reviews]\nhttp:\n- {to('v1')}\n  fault: {spec}")))
    packed = route.typed_per_filter_config
    if "envoy.filters.http.fault" not in packed:
        return None
    kind = worlds.message("envoy.extensions.filters.http.fault.v3.HTTPFault")
    return kind.FromString(packed["envoy.filters.http.fault"].value)


def test_faults_carry_their_share() -> None:
    """A ten-thousandth of a percent is kept."""
    fault = fault_of(
        "{delay: {fixedDelay: 7s, percentage: {value: 0.0001}}, abort: {httpStatus: 500, percentage: {value: 100}}}"
    )
    assert fault.delay.fixed_delay.seconds == 7
    assert fault.delay.percentage.numerator == 1
    assert fault.abort.percentage.numerator == 1_000_000
    assert fault.abort.http_status == 500


@pytest.mark.parametrize(
    "spec",
    ["{delay: {fixedDelay: 7s}}", "{abort: {httpStatus: 500}}", "{abort: {httpStatus: 500, percentage: {value: 0}}}"],
)
def test_a_fault_without_a_percentage_is_none(spec: str) -> None:
    """Istio's default is no request at all."""
    assert fault_of(spec) is None


def test_a_grpc_abort_is_named_and_sent_as_a_number() -> None:
    """UNAVAILABLE is 14."""
    assert fault_of("{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 50}}}").abort.grpc_status == 14


def test_a_destination_that_does_not_exist_stays_in_the_route() -> None:
    """The client answers 503 NC; the operator sees it in analyze."""
    spec = "hosts: [reviews]\nhttp:\n- route: [{destination: {host: nowhere, subset: v9}}]"
    found = world(virtual_service(spec))
    (route,) = routes(found)
    assert route.route.cluster == outbound("nowhere", subset="v9")
    assert worlds.cluster(found, "nowhere", "v9") is None


def test_port_of_a_destination() -> None:
    """Said, or the service's only one, or the one that was called."""
    ratings = worlds.server("ratings", port=7100)
    two_ports = worlds.server(
        "details", registrations=(worlds.Registration("details", 80, 1), worlds.Registration("details", 81, 2))
    )
    for destination, expected in (
        ("{host: ratings}", outbound("ratings", 9080)),
        ("{host: ratings, port: {number: 99}}", outbound("ratings", 99)),
        ("{host: details}", outbound("details", 9080)),
        ("{host: unknown}", outbound("unknown", 9080)),
    ):
        text = virtual_service(f"hosts: [reviews]\nhttp:\n- route: [{{destination: {destination}}}]")
        (route,) = routes(world(text, nodes=(*worlds.REVIEWS, ratings, two_ports)))
        assert route.route.cluster == expected


def test_short_hosts_are_those_of_the_objects_namespace() -> None:
    """A VirtualService for `reviews` in another namespace is about another service."""
    text = virtual_service(f"hosts: [reviews]\nhttp:\n- {to('v1')}", namespace="shop")
    assert routes(world(text))[0].name == "default"
    assert routes(world(text))[0].route.cluster == outbound("reviews")


def chosen(*texts: str, node: Node | None = None) -> str:
    (route,) = routes(world(*texts), node=node)
    return str(route.route.cluster.split("|")[2])


FULL = f"hosts: [{worlds.host('reviews')}]\nhttp:\n- route: [{{destination: {{host: x, subset: SUBSET}}}}]\n"


def for_reviews(subset: str, namespace: str = "default", extra: str = "", name: str = "") -> str:
    return virtual_service(FULL.replace("SUBSET", subset) + extra, name or subset, namespace)


def test_of_rivals_the_oldest_wins() -> None:
    """On mesh clients VirtualServices for one host do not merge."""
    assert chosen(for_reviews("v1"), for_reviews("v2")) == "v1"


def test_private_beats_exported_beats_public() -> None:
    """Istio's order of candidates, whatever their age."""
    public = for_reviews("public", "shop")
    exported = for_reviews("exported", "shop", "exportTo: [default]")
    private = for_reviews("private", "default", 'exportTo: ["."]')
    assert chosen(public, exported, private) == "private"
    assert chosen(public, exported) == "exported"
    assert chosen(public) == "public"
    assert chosen(private, node=client("bank")) == ""


def test_the_most_specific_host_wins() -> None:
    """An old wildcard does not beat the name itself."""
    wild = virtual_service(
        FULL.replace(worlds.host("reviews"), '"*.default.svc.cluster.local"').replace("SUBSET", "wild"), "w"
    )
    assert chosen(wild, for_reviews("exact")) == "exact"
    assert chosen(wild) == "wild"


def test_a_virtual_service_for_a_gateway_does_not_count_for_mesh_clients() -> None:
    """Unless it names the mesh too."""
    assert chosen(for_reviews("v1", extra="gateways: [ingress]")) == ""
    assert chosen(for_reviews("v1", extra="gateways: [ingress, mesh]")) == "v1"


def test_a_host_that_no_registry_knows_counts_on_port_80() -> None:
    """Istio: it becomes a virtual host of the port 80 listener."""
    text = virtual_service("hosts: [my.example]\nhttp:\n- route: [{destination: {host: reviews}}]")
    found = world(text)
    assert listener(found, "my.example:80") is not None
    assert listener(found, "my.example:81") is None
    (route,) = routes(found, "my.example", 80)
    assert route.route.cluster == outbound("reviews")


def test_a_route_tells_who_wrote_it_where() -> None:
    """Object, file, line and field, and Istio's own path."""
    text = virtual_service(f"hosts: [reviews]\nhttp:\n- match: [{{uri: {{exact: /a}}}}]\n  {to('v1')}\n- {to('v2')}")
    found = world(text)
    second = routes(found)[1].metadata.filter_metadata
    assert second["istio"].fields["config"].string_value == (
        "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"
    )
    facts = second["meshlib"].fields
    assert facts["object"].string_value == "VirtualService default/reviews"
    assert facts["file"].string_value == "test.yaml"
    assert facts["field"].string_value == "spec.http[1]"
    assert facts["line"].number_value == 1 + text.splitlines().index(f"  - {to('v2')}")
    resource = translate(found, client(), ROUTE, outbound("reviews"))
    assert resource is not None
    assert resource.sources == (ObjectKey("networking.istio.io", "VirtualService", "default", "reviews"),)


def test_equal_worlds_give_equal_bytes() -> None:
    """Also if the objects came in another order: versions survive a restart."""
    texts = [virtual_service(f"hosts: [reviews]\nhttp:\n- {to('v1')}"), virtual_service("hosts: [b]", "b")]
    items = read(*texts)
    first = translate(world(items=items), client(), ROUTE, outbound("reviews"))
    again = translate(world(items=dict(reversed(items.items()))), client(), ROUTE, outbound("reviews"))
    assert first == again


def test_redirects_are_left_out_until_they_are_effective() -> None:
    """analyze reports them; the routes after them count."""
    spec = f"hosts: [reviews]\nhttp:\n- match: [{{uri: {{exact: /old}}}}]\n  redirect: {{uri: /new}}\n- {to('v1')}"
    assert targets(routes(world(virtual_service(spec)))) == ["v1"]


def test_gateways_of_a_match_override_those_of_the_virtual_service() -> None:
    """Only what names the mesh is for mesh clients."""
    spec = f"""
hosts: [reviews]
gateways: [ingress]
http:
- match: [{{gateways: [mesh], uri: {{prefix: /a}}}}]
  {to("v1")}
- match: [{{uri: {{prefix: /b}}}}]
  {to("v2")}
- {to("v3")}
"""
    assert targets(routes(world(virtual_service(spec)))) == ["v1"]
