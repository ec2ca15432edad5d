"""Records: from a request to its event."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from meshlib.config.model import Endpoint
from meshlib.errors import ConnectFailure, Sighting
from meshlib.facts import Peer, Request
from meshlib.telemetry import Propagation, Reporter, RequestEvent, Telemetry, current, local_workload

REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"
RATINGS = "spiffe://cluster.local/ns/shop/sa/ratings"
CLUSTER = "outbound|9080|v1|ratings.shop.svc.cluster.local"
ENDPOINT = Endpoint("10.0.0.7", 9080, workload="ratings-v1", namespace="shop", labels={"app": "ratings", "version": "v1"})
ASKED = Request("GET", "http", "ratings:9080", "/ratings/0", (("user-agent", "httpx"), ("x-forwarded-for", "1.2.3.4")))


class Clock:
    """Moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Told(list[RequestEvent]):
    """What a listener was told."""

    def __call__(self, event: RequestEvent) -> None:
        self.append(event)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def telemetry(clock: Clock, told: Told) -> Telemetry:
    local = local_workload(service="reviews", namespace="default", labels={"version": "v2"})
    telemetry = Telemetry(local, Propagation(dice=lambda: 1.0), monotonic=clock, now=lambda: 1_700_000_000.5)
    telemetry.identify(REVIEWS)
    telemetry.add_listener(told)
    return telemetry


@pytest.fixture(autouse=True)
def nothing_current() -> Iterator[None]:
    yield
    assert current() is None


def test_an_outbound_request_tells_who_asked_whom(telemetry: Telemetry, told: Told, clock: Clock) -> None:
    """The client knows its own workload and the endpoint's from the control plane."""
    record = telemetry.outbound(ASKED)
    clock.now += 0.02
    record.responded()
    clock.now += 0.01
    record.end(record.event(status=200, cluster=CLUSTER, endpoint=ENDPOINT, principal=RATINGS, route="default", bytes_sent=48))
    (event,) = told
    assert event.reporter is Reporter.SOURCE
    assert (event.source.workload, event.source.app, event.source.version) == ("reviews-v2", "reviews", "v2")
    assert (event.source.service, event.source.principal) == ("reviews.default.svc.cluster.local", REVIEWS)
    assert (event.destination.workload, event.destination.namespace) == ("ratings-v1", "shop")
    assert (event.destination.service, event.destination.service_name) == ("ratings.shop.svc.cluster.local", "ratings")
    assert event.destination.principal == RATINGS
    assert (event.duration, event.upstream_duration) == (pytest.approx(0.03), pytest.approx(0.02))
    assert (event.endpoint, event.started, event.user_agent, event.forwarded_for) == (
        "10.0.0.7:9080",
        1_700_000_000.5,
        "httpx",
        "1.2.3.4",
    )
    assert event.secured is None


def test_an_inbound_request_tells_who_asked(telemetry: Telemetry, told: Told) -> None:
    """Namespace and principal are proven; workload, app and version are told by the peer."""
    client = Telemetry(local_workload(service="productpage", namespace="web", labels={"version": "v1"}))
    client.identify("spiffe://cluster.local/ns/web/sa/pages")
    headers = client.outbound(ASKED).mesh_headers
    peer = Peer("spiffe://cluster.local/ns/web/sa/pages", "10.0.0.3:41000")
    record = telemetry.inbound(Request("GET", "http", "reviews:9080", "/reviews/0", headers), peer)
    record.end(record.event(status=200, local_address="10.0.0.5:9080"))
    record.close()
    (event,) = told
    assert event.reporter is Reporter.DESTINATION
    assert event.source == client.local._replace(service="", service_name="")
    assert event.destination == telemetry.local
    assert (event.secured, event.cluster, event.peer) == (True, "inbound|9080||", peer)


@pytest.mark.parametrize("spiffe_id", ["spiffe://cluster.local/ns/web/sa/other", "spiffe://cluster.local/ns/other/sa/pages"])
def test_a_peer_cannot_speak_for_another(telemetry: Telemetry, spiffe_id: str) -> None:
    """What a peer tells is believed only together with its certificate."""
    client = Telemetry(local_workload(service="productpage", namespace="web"))
    client.identify("spiffe://cluster.local/ns/web/sa/pages")
    record = telemetry.inbound(Request("GET", "http", "reviews", "/", client.outbound(ASKED).mesh_headers), Peer(spiffe_id))
    source = record.event(status=200).source
    record.close()
    assert (source.workload, source.principal) == ("", spiffe_id)


@pytest.mark.parametrize("told_by_peer", ["", ";;;;;", "%ff;a;b;c;d;e", "x" * 5000, ";" * 400])
def test_a_peer_without_certificate_is_unknown(telemetry: Telemetry, told_by_peer: str) -> None:
    """Whatever it tells."""
    record = telemetry.inbound(Request("GET", "http", "reviews", "/", (("x-meshlib-peer", told_by_peer),)), Peer())
    event = record.event(status=200)
    record.close()
    assert set(event.source) == {""}
    assert event.secured is False


def test_the_context_is_current_until_the_record_is_closed(telemetry: Telemetry) -> None:
    """The application's outgoing requests carry it."""
    record = telemetry.inbound(Request("GET", "http", "reviews", "/", (("x-request-id", "1"), ("end-user", "jason"))), Peer())
    headers = dict(telemetry.outbound(ASKED).headers)
    assert (headers["x-request-id"], headers["end-user"]) == ("1", "jason")
    assert headers["traceparent"] == f"00-{record.context.trace_id}-{record.context.span_id}-00"
    record.close()
    record.close()
    assert current() is None


def test_headers_that_the_application_set_are_left_alone(telemetry: Telemetry) -> None:
    """An explicit value is a decision."""
    record = telemetry.inbound(Request("GET", "http", "reviews", "/", (("end-user", "jason"),)), Peer())
    asked = Request("GET", "http", "ratings", "/", (("end-user", "anna"), ("x-request-id", "mine")))
    outbound = telemetry.outbound(asked)
    record.close()
    assert {name for name, _ in outbound.headers} == {"traceparent"}
    assert outbound.context.request_id == "mine"


def test_a_failure_tells_what_envoy_would(telemetry: Telemetry, told: Told) -> None:
    """Status, flag and details of a request that came back as an exception."""
    record = telemetry.outbound(ASKED)
    seen = Sighting("ratings:9080", "default", CLUSTER, "10.0.0.7:9080", 3, "UF", "Connection refused")
    record.end(record.failure(ConnectFailure(seen)))
    (event,) = told
    assert (event.status, event.flags, event.attempts, event.endpoint) == (503, "UF", 3, "10.0.0.7:9080")
    assert event.detail == "upstream_reset_before_response_started{remote_connection_failure}"
    assert event.transport_failure == "Connection refused"


def test_an_abandoned_request_has_no_status(telemetry: Telemetry, told: Told) -> None:
    """The sender left: DC, response code 0, as in Envoy."""
    record = telemetry.outbound(ASKED)
    record.end(record.abandoned(cluster=CLUSTER))
    assert [(event.status, event.flags, event.detail) for event in told] == [(0, "DC", "downstream_remote_disconnect")]


def test_a_request_that_got_nowhere_names_the_host(telemetry: Telemetry) -> None:
    """No cluster was chosen: the service label is the host that was asked for."""
    event = telemetry.outbound(ASKED).event(status=404, flags="NR")
    assert (event.destination.service, event.destination.workload) == ("ratings", "")
    assert event.detail == "route_not_found"


def test_a_record_ends_once(telemetry: Telemetry, told: Told) -> None:
    """A `finally` may end what was ended."""
    record = telemetry.outbound(ASKED)
    record.end(record.event(status=200))
    record.end(record.abandoned())
    assert [event.status for event in told] == [200]


def test_a_listener_that_raises_harms_nobody(telemetry: Telemetry, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once and told nothing more; the others are."""

    def broken(event: RequestEvent) -> None:
        raise ZeroDivisionError

    telemetry.add_listener(broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            record = telemetry.outbound(ASKED)
            record.end(record.event(status=200))
    assert len(told) == 2
    assert len(caplog.records) == 1


def test_grpc_is_told_by_its_content_type(telemetry: Telemetry) -> None:
    """As in Istio's label request_protocol."""
    asked = Request("POST", "http", "ratings", "/", (("content-type", "application/grpc+proto"),))
    assert telemetry.outbound(asked).event(status=200).request_protocol == "grpc"
    assert telemetry.outbound(ASKED).event(status=200).request_protocol == "http"
