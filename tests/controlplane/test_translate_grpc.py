"""What gRPC's own clients get: nothing that they reject, ignore or read otherwise than Envoy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshlib.config.messages import message
from meshlib_control.model import Node
from tests.support.worlds import REVIEWS, client, cluster, endpoints, routes, world

GRPC = client(kind="grpc")
PYTHON = replace(GRPC, version="gRPC C-core linux Python C-core 58.0.0 Python 1.85.1")
GO = replace(GRPC, version="gRPC Go 1.75.0")
GRPC_SERVERS = tuple(replace(node, kind="grpc") for node in REVIEWS)
NOBODY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_INTERNAL
"""


def peers(mode: str) -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""


def rule(mode: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec: {{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}
"""


def matching(match: str, more: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - match: [{match}]
    {more or "name: matched"}
    route: [{{destination: {{host: reviews, subset: v2}}}}]
  - name: other
    route: [{{destination: {{host: reviews, subset: v1}}}}]
"""


# Mutual TLS


@pytest.mark.parametrize(
    ("texts", "nodes", "secured"),
    [
        ([], REVIEWS, True),
        ([], GRPC_SERVERS, False),
        ([], (*REVIEWS[:1], *GRPC_SERVERS[1:]), False),
        ([peers("STRICT")], GRPC_SERVERS, True),
        ([peers("DISABLE")], REVIEWS, False),
        ([rule("ISTIO_MUTUAL")], GRPC_SERVERS, True),
        ([rule("DISABLE"), peers("STRICT")], REVIEWS, False),
        ([NOBODY], (), False),
    ],
)
def test_mutual_tls_is_spoken_with_all_endpoints_of_a_cluster_or_with_none(
    texts: list[str], nodes: tuple[Node, ...], secured: bool
) -> None:
    """gRPC cannot choose endpoint by endpoint: TLS only where every one of them takes it."""
    found = cluster(world(*texts, nodes=nodes), node=GRPC)
    assert found is not None
    assert found.HasField("transport_socket") is secured


@pytest.mark.parametrize(("mode", "secured"), [("STRICT", True), ("PERMISSIVE", False), ("DISABLE", False)])
def test_grpcs_servers_get_mutual_tls_where_they_demand_it_and_nowhere_else(mode: str, secured: bool) -> None:
    """They cannot take both on one port, so a library or a sidecar must not begin with TLS under PERMISSIVE."""
    found = endpoints(world(peers(mode), nodes=GRPC_SERVERS))
    marks = {"envoy.transport_socket_match" in endpoint.metadata.filter_metadata for endpoint in found.values()}
    assert marks == {secured}


# Clusters and endpoints


def test_endpoints_carry_addresses_only() -> None:
    """gRPC reads no metadata, and grpcio takes no message above 4 MiB: ten thousand endpoints fit."""
    found = endpoints(world(), node=GRPC)
    assert found.keys() == endpoints(world()).keys()
    assert {endpoint.HasField("metadata") for endpoint in found.values()} == {False}


@pytest.mark.parametrize(
    ("resolution", "hosts", "kind"),
    [
        ("NONE", [], ""),
        ("DNS", ["a.example", "b.example"], ""),
        ("DNS", ["a.example"], "LOGICAL_DNS"),
        ("STATIC", ["192.0.2.1"], "EDS"),
    ],
)
def test_no_cluster_is_sent_that_would_be_rejected(resolution: str, hosts: list[str], kind: str) -> None:
    """A rejected cluster would keep its last state without a word; calls to one that does not exist fail with a reason."""
    entry = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example]
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  resolution: {resolution}
  endpoints: [{", ".join(f"{{address: {host}}}" for host in hosts)}]
"""
    found = cluster(world(entry), "outside.example", node=GRPC)
    types = message("envoy.config.cluster.v3.Cluster").DiscoveryType
    assert (types.Name(found.type) if found else "") == kind


# Routes


def conditions(route: Any) -> list[tuple[str, str, bool]]:
    return [
        (
            one.name,
            "present" if one.HasField("present_match") else one.string_match.WhichOneof("match_pattern"),
            one.invert_match,
        )
        for one in route.match.headers
    ]


@pytest.mark.parametrize(
    ("match", "possible"),
    [
        ("{method: {exact: POST}}", True),
        ("{method: {exact: GET}}", False),
        ("{method: {regex: P.*}}", True),
        ("{method: {prefix: PO}}", True),
        ("{scheme: {exact: http}}", True),
        ("{scheme: {exact: https}}", False),
        ("{withoutHeaders: {':method': {exact: POST}}}", False),
        ("{withoutHeaders: {':method': {exact: GET}}}", True),
        ("{queryParams: {q: {exact: a}}}", False),
    ],
)
def test_what_is_the_same_for_every_call_is_judged_here(match: str, possible: bool) -> None:
    """grpcio would see none of it and take the next route: every call is a POST without a query."""
    found = routes(world(matching(match)), node=GRPC)
    assert [route.name for route in found] == (["matched"] if possible else []) + ["other"]
    assert conditions(found[0]) == []


def test_a_missing_header_is_an_empty_one_in_other_words() -> None:
    """For Envoy a header that is not there is not `a`; for grpcio it meets no condition at all. So: not there, or not `a`."""
    found = routes(world(matching("{withoutHeaders: {x: {exact: a}}}")), node=GRPC)
    assert [conditions(route) for route in found] == [[("x", "present", True)], [("x", "exact", True)], []]


def test_a_pattern_that_an_empty_header_meets_forbids_the_missing_one() -> None:
    """`.*` matches nothing as well."""
    found = routes(world(matching("{withoutHeaders: {x: {regex: '.*'}}}")), node=GRPC)
    assert [conditions(route) for route in found] == [[("x", "safe_regex", True)], []]


def test_two_such_conditions_make_four_routes() -> None:
    """Every combination, in order, before the next route."""
    found = routes(world(matching("{withoutHeaders: {x: {exact: a}, y: {prefix: b}}}")), node=GRPC)
    assert [route.name for route in found] == ["matched"] * 4 + ["other"]


def test_presence_needs_no_other_words() -> None:
    """grpcio reads it as Envoy does."""
    found = routes(world(matching("{withoutHeaders: {x: {}}}")), node=GRPC)
    assert [conditions(route) for route in found] == [[("x", "present", True)], []]


@pytest.mark.parametrize(("node", "seconds"), [(PYTHON, 3.5), (GO, 1.5)])
def test_a_timeout_is_said_as_grpc_reads_it(node: Node, seconds: float) -> None:
    """grpcio's core ends it 1 to 2 s too early, so it gets 2 s more; other languages keep time."""
    found = routes(world(matching("{headers: {x: {exact: a}}}", "timeout: 1500ms")), node=node)
    limit = found[0].route.max_stream_duration.max_stream_duration
    assert limit.seconds + limit.nanos / 1e9 == seconds
    assert not found[1].route.HasField("max_stream_duration")


def test_other_clients_routes_are_untouched() -> None:
    """The library and Envoy read them as Istio writes them."""
    (first, _) = routes(world(matching("{method: {exact: GET}, withoutHeaders: {x: {exact: a}}}", "timeout: 1s")))
    assert conditions(first) == [(":method", "exact", False), ("x", "exact", True)]
    assert not first.route.HasField("max_stream_duration")
