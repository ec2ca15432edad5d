"""Resources as a control plane sends them -> the model; and each way of being wrong, with its field."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshlib.config.decode import decode
from meshlib.config.messages import message, pack
from meshlib.config.model import (
    Abort,
    Assignment,
    Cluster,
    Delay,
    Endpoint,
    Fault,
    HeaderMatch,
    LbPolicy,
    Locality,
    MatchKind,
    Origin,
    OutboundListener,
    PeerMode,
    QueryMatch,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    StringMatch,
    UpstreamTls,
    WeightedCluster,
)
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind
from meshlib.errors import ConfigurationError

LISTENER = "envoy.config.listener.v3.Listener"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTES = "envoy.config.route.v3.RouteConfiguration"
CLUSTER = "envoy.config.cluster.v3.Cluster"
CLA = "envoy.config.endpoint.v3.ClusterLoadAssignment"
FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
UPSTREAM = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
RAW = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
SPIFFE = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
ORIGIN = {
    "object": "VirtualService default/reviews",
    "file": "virtual-service-reviews.yaml",
    "line": 12,
    "field": "spec.http[0]",
}
MADE_BY = Origin("VirtualService default/reviews", "virtual-service-reviews.yaml", 12, "spec.http[0]")


def packed(full_name: str, /, **fields: Any) -> Any:
    return pack(message(full_name)(**fields))


def read(kind: Kind, full_name: str, /, **fields: Any) -> Any:
    return decode(kind, message(full_name)(**fields).SerializeToString())


def metadata(**owners: dict[str, Any]) -> Any:
    made = message("envoy.config.core.v3.Metadata")()
    for owner, values in owners.items():
        made.filter_metadata[owner.replace("__", ".")].update(values)
    return made


def one_route(**fields: Any) -> Route:
    given = {"match": {"prefix": "/"}, "route": {"cluster": "c"}, **fields}
    found = read(Kind.ROUTE, ROUTES, name="r", virtual_hosts=[{"name": "v", "domains": ["*"], "routes": [given]}])
    assert isinstance(found, RouteConfiguration)
    return found.virtual_hosts[0].routes[0]


def one_cluster(**fields: Any) -> Cluster:
    given = {"name": "outbound|9080||reviews", "type": "EDS", "lb_policy": "LEAST_REQUEST", **fields}
    found = read(Kind.CLUSTER, CLUSTER, **given)
    assert isinstance(found, Cluster)
    return found


def one_endpoint(**fields: Any) -> Endpoint:
    given = {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 9080}}}, **fields}
    found = read(Kind.ASSIGNMENT, CLA, cluster_name="c", endpoints=[{"lb_endpoints": [given]}])
    assert isinstance(found, Assignment)
    return found.endpoints[0]


@contextmanager
def refused(field: str) -> Iterator[None]:
    with pytest.raises(ConfigurationError) as caught:
        yield
    assert caught.value.field == field
    assert caught.value.problem


# Listeners


def test_outbound_listener() -> None:
    """A destination names its routes through api_listener."""
    manager = packed(HCM, rds={"route_config_name": "outbound|9080||reviews"})
    found = read(Kind.LISTENER, LISTENER, name="reviews:9080", api_listener={"api_listener": manager})
    assert found == OutboundListener("reviews:9080", "outbound|9080||reviews")


def mutual_tls(*, required: bool = True) -> dict[str, Any]:
    context = packed(DOWNSTREAM, require_client_certificate={"value": required})
    return {"transport_socket": {"name": "tls", "typed_config": context}}


RAW_CHAIN: dict[str, Any] = {"filter_chain_match": {"transport_protocol": "raw_buffer"}}


@pytest.mark.parametrize(
    ("chains", "mode"),
    [
        ([mutual_tls()], PeerMode.STRICT),
        ([mutual_tls(), RAW_CHAIN], PeerMode.PERMISSIVE),
        ([RAW_CHAIN], PeerMode.DISABLE),
        ([{"transport_socket": {"name": "raw", "typed_config": packed(RAW)}}], PeerMode.DISABLE),
    ],
)
def test_filter_chains_tell_the_mode(chains: list[dict[str, Any]], mode: PeerMode) -> None:
    """STRICT has only a TLS chain, DISABLE only a raw one, PERMISSIVE both."""
    found = read(Kind.LISTENER, LISTENER, name="in", filter_chains=chains, metadata=metadata(meshlib=ORIGIN))
    assert found == InboundListener("in", mode, MADE_BY)


def named(**matcher: str) -> dict[str, Any]:
    """A mutual TLS chain that tells peers apart by name."""
    names = {"default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": matcher}]}}
    common = {"combined_validation_context": names}
    context = packed(DOWNSTREAM, require_client_certificate={"value": True}, common_tls_context=common)
    return {"transport_socket": {"name": "tls", "typed_config": context}}


def test_trust_domains_of_peers_are_prefixes_of_their_names() -> None:
    """As for Envoy."""
    found = read(Kind.LISTENER, LISTENER, name="in", filter_chains=[named(prefix="spiffe://cluster.local/")])
    assert isinstance(found, InboundListener)
    assert found.trust_domains == {"cluster.local"}


@pytest.mark.parametrize("matcher", [{"exact": "spiffe://cluster.local/"}, {"prefix": "spiffe://"}, {"prefix": "spiffe://a"}])
def test_other_conditions_on_a_peers_name_are_refused(matcher: dict[str, str]) -> None:
    """What would not be obeyed must not look as if it were."""
    with refused("filter_chains[0].transport_socket"):
        read(Kind.LISTENER, LISTENER, name="in", filter_chains=[named(**matcher)])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "api_listener"),
        ({"api_listener": {"api_listener": packed(RAW)}}, "api_listener.api_listener"),
        ({"api_listener": {"api_listener": packed(HCM)}}, "api_listener.api_listener.rds.route_config_name"),
        ({"api_listener": {"api_listener": {"type_url": "t/unknown.Type"}}}, "api_listener.api_listener"),
        ({"filter_chains": [mutual_tls(required=False)]}, "filter_chains[0].require_client_certificate"),
    ],
)
def test_wrong_listeners(fields: dict[str, Any], field: str) -> None:
    """Each is refused with its field."""
    with refused(field):
        read(Kind.LISTENER, LISTENER, name="l", **fields)


def test_bytes_that_are_no_message() -> None:
    """Garbage is a configuration error, not a crash."""
    with pytest.raises(ConfigurationError, match="no LDS resource"):
        decode(Kind.LISTENER, b"\xff\xff\xff")
    broken = {"type_url": f"type.googleapis.com/{HCM}", "value": b"\xff\xff"}
    with refused("api_listener.api_listener"):
        read(Kind.LISTENER, LISTENER, name="l", api_listener={"api_listener": broken})


# Routes


def test_a_route_with_everything() -> None:
    """Match, shares, timeout, retries, fault and origin arrive as plain values."""
    fault = packed(
        FAULT,
        delay={"fixed_delay": {"seconds": 7}, "percentage": {"numerator": 100}},
        abort={"http_status": 500, "percentage": {"numerator": 5000, "denominator": "TEN_THOUSAND"}},
    )
    action = {
        "weighted_clusters": {"clusters": [{"name": "v1", "weight": {"value": 80}}, {"name": "v2", "weight": {"value": 20}}]},
        "timeout": {"seconds": 3},
        "retry_policy": {
            "retry_on": "connect-failure, 5xx",
            "num_retries": {"value": 2},
            "per_try_timeout": {"nanos": 500_000_000},
            "retriable_status_codes": [503],
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}],
            "host_selection_retry_max_attempts": 5,
        },
    }
    route = one_route(
        name="reviews",
        match={"prefix": "/reviews", "headers": [{"name": "End-User", "string_match": {"exact": "jason"}}]},
        route=action,
        typed_per_filter_config={"envoy.filters.http.fault": fault},
        metadata=metadata(meshlib=ORIGIN),
    )
    assert route == Route(
        name="reviews",
        match=RouteMatch(
            StringMatch(MatchKind.PREFIX, "/reviews"), (HeaderMatch("end-user", StringMatch(MatchKind.EXACT, "jason")),)
        ),
        clusters=(WeightedCluster("v1", 80), WeightedCluster("v2", 20)),
        timeout=3.0,
        retry=RetryPolicy(frozenset({"connect-failure", "5xx"}), 2, 0.5, frozenset({503})),
        fault=Fault(Delay(1.0, 7.0), Abort(0.5, 500)),
        origin=MADE_BY,
    )


def test_defaults_are_envoys() -> None:
    """15 s where nothing is said, no limit at zero, no retries without retry_on, ten times the base."""
    assert one_route().timeout == 15.0
    assert one_route(route={"cluster": "c", "timeout": {}}).timeout is None
    assert one_route().retry is None
    backed_off = {"retry_on": "5xx", "retry_back_off": {"base_interval": {"seconds": 1}}}
    retry = one_route(route={"cluster": "c", "retry_policy": backed_off}).retry
    assert retry == RetryPolicy(
        frozenset({"5xx"}), 1, backoff_base=1.0, backoff_max=10.0, avoid_previous_hosts=False, host_selection_attempts=1
    )
    none = {"retry_on": "5xx", "num_retries": {"value": 0}}
    assert one_route(route={"cluster": "c", "retry_policy": none}).retry is None


def test_retriable_headers() -> None:
    """Conditions on the response, as Envoy's `retriable-headers` reads them."""
    policy = {"retry_on": "retriable-headers", "retriable_headers": [{"name": "X-Again", "string_match": {"exact": "1"}}]}
    retry = one_route(route={"cluster": "c", "retry_policy": policy}).retry
    assert retry is not None
    assert retry.retriable_headers == (HeaderMatch("x-again", StringMatch(MatchKind.EXACT, "1")),)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"prefix": "/A"}, StringMatch(MatchKind.PREFIX, "/A")),
        ({"path": "/A"}, StringMatch(MatchKind.EXACT, "/A")),
        ({"path": "/A", "case_sensitive": {"value": False}}, StringMatch(MatchKind.EXACT, "/a", ignore_case=True)),
        ({"prefix": "/A", "case_sensitive": {"value": True}}, StringMatch(MatchKind.PREFIX, "/A")),
    ],
)
def test_paths(match: dict[str, Any], expected: StringMatch) -> None:
    """Ignored case is lower case already."""
    assert one_route(match=match).match.path == expected


def test_regular_expressions_are_compiled() -> None:
    """RE2, over the whole text."""
    path = one_route(match={"safe_regex": {"regex": "/v[0-9]+"}}).match.path
    assert path.kind is MatchKind.REGEX
    assert path.pattern is not None
    assert path.pattern.fullmatch("/v12")
    assert not path.pattern.fullmatch("/v12/x")


@pytest.mark.parametrize(
    ("path", "matches"),
    [("/api", True), ("/api/x", True), ("/apix", False), ("/API", False), ("/a.i", False), ("/api/a\nb", True)],
)
def test_separated_prefix(path: str, matches: bool) -> None:
    """Envoy's path_separated_prefix ends at a segment."""
    pattern = one_route(match={"path_separated_prefix": "/api"}).match.path.pattern
    assert pattern is not None
    assert bool(pattern.fullmatch(path)) is matches


def test_separated_prefix_takes_every_character_literally() -> None:
    """No character of the prefix is an operator; case may be ignored."""
    match = {"path_separated_prefix": "/A.b+(ü", "case_sensitive": {"value": False}}
    pattern = one_route(match=match).match.path.pattern
    assert pattern is not None
    assert pattern.fullmatch("/a.B+(ü/x")
    assert not pattern.fullmatch("/axb+(ü")


PRESENT = StringMatch(MatchKind.PRESENT)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"name": "a"}, HeaderMatch("a", PRESENT)),
        ({"name": "a", "present_match": True}, HeaderMatch("a", PRESENT)),
        ({"name": "a", "present_match": False}, HeaderMatch("a", PRESENT, invert=True)),
        ({"name": "a", "present_match": False, "invert_match": True}, HeaderMatch("a", PRESENT)),
        ({"name": "a", "exact_match": "X"}, HeaderMatch("a", StringMatch(MatchKind.EXACT, "X"))),
        ({"name": "a", "suffix_match": "X"}, HeaderMatch("a", StringMatch(MatchKind.SUFFIX, "X"))),
        (
            {"name": "a", "string_match": {"contains": "X", "ignore_case": True}, "invert_match": True},
            HeaderMatch("a", StringMatch(MatchKind.CONTAINS, "x", ignore_case=True), invert=True),
        ),
        (
            {"name": "a", "string_match": {"prefix": "X"}, "treat_missing_header_as_empty": True},
            HeaderMatch("a", StringMatch(MatchKind.PREFIX, "X"), missing_as_empty=True),
        ),
    ],
)
def test_headers(header: dict[str, Any], expected: HeaderMatch) -> None:
    """All forms, the deprecated ones too."""
    assert one_route(match={"prefix": "/", "headers": [header]}).match.headers == (expected,)


def test_header_regex() -> None:
    """Both places where xDS keeps it."""
    for header in ({"string_match": {"safe_regex": {"regex": "a+"}}}, {"safe_regex_match": {"regex": "a+"}}):
        found = one_route(match={"prefix": "/", "headers": [{"name": "h", **header}]}).match.headers[0].match
        assert found.pattern is not None
        assert found.pattern.fullmatch("aaa")


def test_query() -> None:
    """A parameter is compared or just there."""
    given = [{"name": "q", "string_match": {"exact": "1"}}, {"name": "p", "present_match": True}, {"name": "o"}]
    assert one_route(match={"prefix": "/", "query_parameters": given}).match.query == (
        QueryMatch("q", StringMatch(MatchKind.EXACT, "1")),
        QueryMatch("p", PRESENT),
        QueryMatch("o", PRESENT),
    )


def test_grpc_abort_and_empty_fault() -> None:
    """A gRPC status is a trailer under 200; a fault of nothing is none."""
    abort = packed(FAULT, abort={"grpc_status": 14, "percentage": {"numerator": 1, "denominator": "MILLION"}})
    assert one_route(typed_per_filter_config={"envoy.filters.http.fault": abort}).fault == Fault(None, Abort(1e-6, 200, 14))
    assert one_route(typed_per_filter_config={"envoy.filters.http.fault": packed(FAULT)}).fault is None


def fault_of(**fields: Any) -> dict[str, Any]:
    return {"typed_per_filter_config": {"envoy.filters.http.fault": packed(FAULT, **fields)}}


HTTP_FAULT = "typed_per_filter_config[envoy.filters.http.fault]"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"route": {}}, "route"),
        ({"route": {"cluster_header": "h"}}, "route"),
        ({"route": {"weighted_clusters": {"clusters": [{"name": "c"}]}}}, "route.weighted_clusters.clusters"),
        (
            {"route": {"weighted_clusters": {"clusters": [{"weight": {"value": 1}}]}}},
            "route.weighted_clusters.clusters[0].name",
        ),
        ({"route": {"cluster": "c", "timeout": {"seconds": -1}}}, "route.timeout"),
        (
            {
                "route": {
                    "cluster": "c",
                    "retry_policy": {
                        "retry_on": "5xx",
                        "retry_back_off": {"base_interval": {"seconds": 2}, "max_interval": {"seconds": 1}},
                    },
                }
            },
            "route.retry_policy.retry_back_off.max_interval",
        ),
        (
            {"route": {"cluster": "c", "retry_policy": {"retry_on": "5xx", "retriable_request_headers": [{"name": "a"}]}}},
            "route.retry_policy.retriable_request_headers",
        ),
        ({"match": {}}, "match"),
        ({"match": {"prefix": "/", "runtime_fraction": {}}}, "match.runtime_fraction"),
        ({"match": {"prefix": "/", "grpc": {}}}, "match.grpc"),
        ({"match": {"prefix": "/", "dynamic_metadata": [{"filter": "x"}]}}, "match.dynamic_metadata"),
        ({"match": {"connect_matcher": {}}}, "match"),
        ({"match": {"safe_regex": {"regex": "("}}}, "match.safe_regex"),
        ({"match": {"safe_regex": {"regex": "(?=x)"}}}, "match.safe_regex"),
        ({"match": {"safe_regex": {"regex": ""}}}, "match.safe_regex"),
        ({"match": {"prefix": "/", "headers": [{}]}}, "match.headers[0].name"),
        ({"match": {"prefix": "/", "headers": [{"name": "a", "range_match": {"start": 1, "end": 2}}]}}, "match.headers[0]"),
        ({"match": {"prefix": "/", "headers": [{"name": "a", "string_match": {}}]}}, "match.headers[0].string_match"),
        ({"match": {"prefix": "/", "query_parameters": [{}]}}, "match.query_parameters[0].name"),
        (
            {"match": {"prefix": "/", "query_parameters": [{"name": "a", "present_match": False}]}},
            "match.query_parameters[0].present_match",
        ),
        (fault_of(delay={"percentage": {"numerator": 1}}), f"{HTTP_FAULT}.delay.fixed_delay"),
        (fault_of(abort={"http_status": 199}), f"{HTTP_FAULT}.abort.http_status"),
        (fault_of(abort={}), f"{HTTP_FAULT}.abort"),
        (fault_of(abort={"http_status": 500, "percentage": {"denominator": 9}}), f"{HTTP_FAULT}.abort.percentage"),
        (fault_of(upstream_cluster="c"), HTTP_FAULT),
        ({"typed_per_filter_config": {"envoy.filters.http.fault": packed(RAW)}}, HTTP_FAULT),
    ],
)
def test_wrong_routes(fields: dict[str, Any], field: str) -> None:
    """What cannot be obeyed is refused, with the field."""
    with refused(f"virtual_hosts[0].routes[0].{field}"):
        one_route(**fields)


@pytest.mark.parametrize("action", [{"redirect": {}}, {"direct_response": {"status": 200}}, {"non_forwarding_action": {}}])
def test_other_actions_are_refused(action: dict[str, Any]) -> None:
    """Only routing is supported."""
    route = {"match": {"prefix": "/"}, **action}
    with refused("virtual_hosts[0].routes[0]"):
        read(Kind.ROUTE, ROUTES, name="r", virtual_hosts=[{"name": "v", "domains": ["*"], "routes": [route]}])


def test_domains() -> None:
    """Lower case, at least one, no domain twice."""
    assert read(Kind.ROUTE, ROUTES, name="r", virtual_hosts=[{"domains": ["Reviews"]}]).virtual_hosts[0].domains == (
        "reviews",
    )
    with refused("virtual_hosts[0].domains"):
        read(Kind.ROUTE, ROUTES, name="r", virtual_hosts=[{"name": "v"}])
    with refused("virtual_hosts"):
        read(Kind.ROUTE, ROUTES, name="r", virtual_hosts=[{"domains": ["a"]}, {"domains": ["A"]}])


# Clusters


def tls_match(match: dict[str, str] | None = None, **validation: Any) -> dict[str, Any]:
    context = packed(
        UPSTREAM,
        sni="outbound_.9080_._.reviews",
        common_tls_context={
            "alpn_protocols": ["istio-http/1.1", "istio", "http/1.1"],
            "combined_validation_context": {"default_validation_context": validation},
        },
    )
    struct = message("google.protobuf.Struct")()
    struct.update({"tlsMode": "istio"} if match is None else match)
    return {"name": "tls", "match": struct, "transport_socket": {"name": "tls", "typed_config": context}}


PLAIN = {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "raw", "typed_config": packed(RAW)}}


def test_an_eds_cluster_with_mutual_tls() -> None:
    """Names, policy, the TLS to offer and whom to believe."""
    found = one_cluster(
        eds_cluster_config={"service_name": "elsewhere"},
        connect_timeout={"seconds": 10},
        transport_socket_matches=[
            tls_match(match_typed_subject_alt_names=[{"san_type": "URI", "matcher": {"exact": SPIFFE}}]),
            PLAIN,
        ],
        metadata=metadata(meshlib={"object": "DestinationRule default/reviews"}),
    )
    tls = UpstreamTls("outbound_.9080_._.reviews", frozenset({SPIFFE}), ("istio-http/1.1", "istio", "http/1.1"))
    assert found == Cluster(
        "outbound|9080||reviews",
        assignment="elsewhere",
        tls=tls,
        connect_timeout=10.0,
        origin=Origin("DestinationRule default/reviews"),
        panic_threshold=50.0,
    )


def test_the_assignment_is_named_as_the_cluster_by_default() -> None:
    """Envoy: service_name is optional."""
    assert one_cluster().assignment == "outbound|9080||reviews"
    assert one_cluster().tls is None
    assert one_cluster().connect_timeout == 5.0


@pytest.mark.parametrize("name", ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"])
def test_policies(name: str) -> None:
    """DestinationRule's simple policies."""
    assert one_cluster(lb_policy=name).lb_policy is LbPolicy(name)


def test_passthrough() -> None:
    """ORIGINAL_DST goes where the request says."""
    assert one_cluster(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED").lb_policy is LbPolicy.PASSTHROUGH


def test_endpoints_inside_a_dns_cluster() -> None:
    """A host name is an address, too."""
    address = {"socket_address": {"address": "example.com", "port_value": 80}}
    inside = {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    found = one_cluster(type="STRICT_DNS", load_assignment=inside)
    assert found.assignment == ""
    assert found.endpoints == (Endpoint("example.com", 80),)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"lb_policy": "MAGLEV"}, "lb_policy"),
        ({"lb_policy": "CLUSTER_PROVIDED"}, "lb_policy"),
        ({"type": "ORIGINAL_DST"}, "lb_policy"),
        ({"type": 77}, "type"),
        ({"connect_timeout": {"seconds": -1}}, "connect_timeout"),
        ({"transport_socket": tls_match()["transport_socket"]}, "transport_socket"),
        ({"transport_socket_matches": [tls_match({})]}, "transport_socket_matches[0].match"),
        (
            {"transport_socket_matches": [tls_match(match_subject_alt_names=[{"prefix": "spiffe://"}])]},
            "transport_socket_matches[0].match_subject_alt_names",
        ),
        (
            {"type": "STATIC", "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{}]}]}},
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address",
        ),
    ],
)
def test_wrong_clusters(fields: dict[str, Any], field: str) -> None:
    """Each is refused with its field; weaker security than asked for is never silently accepted."""
    with refused(field):
        one_cluster(**fields)


# Endpoints


def test_an_endpoint_of_the_mesh() -> None:
    """Address, weight, TLS and who it is, for telemetry."""
    found = one_endpoint(
        health_status="HEALTHY",
        load_balancing_weight={"value": 3},
        metadata=metadata(
            envoy__transport_socket_match={"tlsMode": "istio"},
            istio={"workload": "reviews-v1;default;reviews;v1;Kubernetes"},
            meshlib={
                "instance": "reviews-v1-0",
                "service_account": "bookinfo-reviews",
                "labels": {"app": "reviews", "tier": "x"},
            },
        ),
    )
    assert found == Endpoint(
        "10.0.0.1", 9080, weight=3, tls=True, workload="reviews-v1", namespace="default", service_account="bookinfo-reviews"
    )
    assert found.labels == {"app": "reviews", "tier": "x"}


def test_an_endpoint_of_istio_has_labels_from_its_workload() -> None:
    """Istio's form alone gives app and version."""
    found = one_endpoint(metadata=metadata(istio={"workload": "reviews-v1;default;reviews;v1;Kubernetes"}))
    assert found.labels == {"app": "reviews", "version": "v1"}
    assert one_endpoint().labels == {}
    assert one_endpoint().tls is False


@pytest.mark.parametrize(
    ("status", "healthy"),
    [("UNKNOWN", True), ("HEALTHY", True), ("DEGRADED", True), ("UNHEALTHY", False), ("DRAINING", False), ("TIMEOUT", False)],
)
def test_health(status: str, healthy: bool) -> None:
    """Draining endpoints get nothing new."""
    assert one_endpoint(health_status=status).healthy is healthy


def test_localities() -> None:
    """The group says where its endpoints are."""
    address = {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 1}}}
    group = {"locality": {"region": "r", "zone": "z", "sub_zone": "s"}, "lb_endpoints": [{"endpoint": address}]}
    assert read(Kind.ASSIGNMENT, CLA, cluster_name="c", endpoints=[group]).endpoints[0].locality == Locality("r", "z", "s")


def test_wrong_endpoints() -> None:
    """No address, or a priority that would be ignored."""
    with refused("endpoints[0].lb_endpoints[0].endpoint.address"):
        read(Kind.ASSIGNMENT, CLA, cluster_name="c", endpoints=[{"lb_endpoints": [{}]}])
    with refused("endpoints[0].priority"):
        read(Kind.ASSIGNMENT, CLA, cluster_name="c", endpoints=[{"priority": 1}])
