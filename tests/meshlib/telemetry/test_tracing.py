"""Spans through OpenTelemetry's API, collected by its SDK."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meshlib.config.model import Endpoint
from meshlib.errors import Sighting, UpstreamTimeout
from meshlib.facts import DryRun, Headers, Peer, Request
from meshlib.telemetry import Propagation, Telemetry, local_workload

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
CALLER: Headers = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "vendor=1"))
CLUSTER = "outbound|9080|v1|ratings.default.svc.cluster.local"
ENDPOINT = Endpoint("10.0.0.7", 9080, workload="ratings-v1", namespace="default", labels={"app": "ratings", "version": "v1"})
PEER = Peer("", "10.0.0.3:41000")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def provide(monkeypatch: pytest.MonkeyPatch, provider: trace.TracerProvider) -> None:
    """OpenTelemetry allows one provider in the life of a process."""
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provide(monkeypatch, provider)
    for name in ("asgi", "wsgi"):
        monkeypatch.delitem(sys.modules, f"opentelemetry.instrumentation.{name}", raising=False)
    yield provider
    assert not trace.get_current_span().get_span_context().is_valid


def service(name: str, sampling: float = 0.0) -> Telemetry:
    return Telemetry(
        local_workload(service=name, namespace="default", labels={"version": "v1"}), Propagation(sampling=sampling)
    )


def arriving(*headers: tuple[str, str], path: str = "/reviews/0") -> Request:
    return Request("GET", "http", "reviews:9080", path, headers)


LEAVING = Request("GET", "http", "ratings:9080", "/ratings/0?sig=secret&x=1")


def by_kind(exporter: InMemorySpanExporter) -> dict[SpanKind, ReadableSpan]:
    return {span.kind: span for span in exporter.get_finished_spans()}


def parent_id(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def exchange(reviews: Telemetry, *headers: tuple[str, str]) -> Headers:
    """A request arrives at reviews, which asks ratings. Returns what ratings receives."""
    inbound = reviews.inbound(arriving(*headers), PEER)
    outbound = reviews.outbound(LEAVING)
    outbound.end(outbound.event(status=200, cluster=CLUSTER, endpoint=ENDPOINT, attempts=2))
    inbound.end(inbound.event(status=200))
    inbound.close()
    return outbound.headers


def test_all_spans_of_a_request_are_one_trace(exporter: InMemorySpanExporter) -> None:
    """The caller's span, ours of the server, ours of the client, and the next server's: each the parent of the next."""
    sent = exchange(service("reviews"), *CALLER)
    exchange(service("ratings"), *sent)
    server, client, next_server, _ = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    assert [span.kind for span in (server, client, next_server)] == [SpanKind.SERVER, SpanKind.CLIENT, SpanKind.SERVER]
    assert {f"{span.get_span_context().trace_id:032x}" for span in exporter.get_finished_spans()} == {TRACE}
    assert parent_id(server) == SPAN
    assert parent_id(client) == f"{server.get_span_context().span_id:016x}"
    assert parent_id(next_server) == f"{client.get_span_context().span_id:016x}"
    assert dict(sent)["tracestate"] == "vendor=1"


def test_the_server_span_follows_the_semantic_conventions(exporter: InMemorySpanExporter) -> None:
    """Stable names; the tags istio.* are Istio's."""
    reviews = service("reviews")
    record = reviews.inbound(arriving(*CALLER, ("user-agent", "curl/8"), path="/reviews/0?Signature=s"), PEER)
    record.end(record.event(status=500))
    record.close()
    span = by_kind(exporter)[SpanKind.SERVER]
    assert span.name == "GET"
    assert span.status.status_code is StatusCode.ERROR
    assert (
        dict(span.attributes or {}).items()
        >= {
            "http.request.method": "GET",
            "http.response.status_code": 500,
            "error.type": "500",
            "url.scheme": "http",
            "url.path": "/reviews/0",
            "url.query": "Signature=REDACTED",
            "server.address": "reviews",
            "server.port": 9080,
            "client.address": "10.0.0.3",
            "network.protocol.version": "1.1",
            "user_agent.original": "curl/8",
            "guid:x-request-id": record.context.request_id,
            "istio.canonical_service": "reviews",
            "istio.canonical_revision": "v1",
            "istio.namespace": "default",
        }.items()
    )


def test_policies_on_trial_are_tags_of_the_server_span(exporter: InMemorySpanExporter) -> None:
    """Istio's tags; a policy is named where one matched."""
    record = service("reviews").inbound(arriving(*CALLER), PEER)
    record.judged(record.request, [DryRun("deny", "denied", "p"), DryRun("allow", "denied")])
    record.end(record.event(status=200))
    record.close()
    found = by_kind(exporter)[SpanKind.SERVER].attributes or {}
    begin = "istio.authorization.dry_run."
    assert {key.removeprefix(begin): value for key, value in found.items() if key.startswith(begin)} == {
        "deny_policy.name": "p",
        "deny_policy.result": "denied",
        "allow_policy.result": "denied",
    }


def test_the_client_span_tells_where_it_went(exporter: InMemorySpanExporter) -> None:
    """Endpoint, tries, and no credentials of the query."""
    exchange(service("reviews"), *CALLER)
    span = by_kind(exporter)[SpanKind.CLIENT]
    assert span.status.status_code is StatusCode.UNSET
    assert (
        dict(span.attributes or {}).items()
        >= {
            "url.full": "http://ratings:9080/ratings/0?sig=REDACTED&x=1",
            "server.address": "ratings",
            "server.port": 9080,
            "network.peer.address": "10.0.0.7",
            "network.peer.port": 9080,
            "http.request.resend_count": 1,
            "upstream_cluster": CLUSTER,
            "istio.canonical_service": "reviews",
            "istio.destination_workload": "ratings-v1",
        }.items()
    )


def test_a_failure_is_an_error_with_envoys_flag(exporter: InMemorySpanExporter) -> None:
    """error.type has few values."""
    record = service("reviews", sampling=1.0).outbound(LEAVING)
    record.end(record.failure(UpstreamTimeout(Sighting("ratings:9080", cluster=CLUSTER, flag="UT", detail="3 s"))))
    span = by_kind(exporter)[SpanKind.CLIENT]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "UT"


def test_unknown_methods_are_one(exporter: InMemorySpanExporter) -> None:
    """A client cannot make up span names."""
    record = service("reviews", sampling=1.0).outbound(LEAVING.__class__("BREW", "http", "pot", "/"))
    record.end(record.event(status=418))
    span = by_kind(exporter)[SpanKind.CLIENT]
    attributes = span.attributes or {}
    assert (span.name, attributes["http.request.method"], attributes["http.request.method_original"]) == (
        "HTTP",
        "_OTHER",
        "BREW",
    )


def test_unsampled_requests_make_no_spans(exporter: InMemorySpanExporter) -> None:
    """Neither ours nor the application's own: the decision is followed by everybody."""
    inbound = service("reviews").inbound(arriving(), PEER)
    with trace.get_tracer("application").start_as_current_span("work"):
        pass
    inbound.end(inbound.event(status=200))
    inbound.close()
    assert exporter.get_finished_spans() == ()


def test_a_root_begins_the_trace(exporter: InMemorySpanExporter) -> None:
    """The context and the span agree on the ids."""
    headers = dict(exchange(service("reviews", sampling=1.0)))
    server, client = by_kind(exporter)[SpanKind.SERVER], by_kind(exporter)[SpanKind.CLIENT]
    assert server.parent is None
    ids = client.get_span_context()
    assert headers["traceparent"] == f"00-{server.get_span_context().trace_id:032x}-{ids.span_id:016x}-01"


def test_the_application_may_sample_less(monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter) -> None:
    """What its sampler drops at the root is unsampled for everybody after."""
    provide(monkeypatch, TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    assert dict(exchange(service("reviews", sampling=1.0)))["traceparent"].endswith("-00")


def test_spans_of_the_application_lie_between(exporter: InMemorySpanExporter) -> None:
    """Server span, the application's span, client span."""
    reviews = service("reviews")
    inbound = reviews.inbound(arriving(*CALLER), PEER)
    with trace.get_tracer("application").start_as_current_span("work") as work:
        outbound = reviews.outbound(LEAVING)
        outbound.end(outbound.event(status=200))
    inbound.end(inbound.event(status=200))
    inbound.close()
    spans = by_kind(exporter)
    assert parent_id(spans[SpanKind.CLIENT]) == f"{work.get_span_context().span_id:016x}"
    assert parent_id(spans[SpanKind.INTERNAL]) == f"{spans[SpanKind.SERVER].get_span_context().span_id:016x}"


def test_an_instrumented_client_is_not_instrumented_again(exporter: InMemorySpanExporter) -> None:
    """OpenTelemetry's httpx instrumentation put its span on the request: it gets Istio's tags, ours is not made."""
    reviews = service("reviews")
    with trace.get_tracer("httpx").start_as_current_span("GET", kind=SpanKind.CLIENT) as span:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        record = reviews.outbound(Request("GET", "http", "ratings:9080", "/", tuple(carrier.items())))
        record.end(record.event(status=200, cluster=CLUSTER, endpoint=ENDPOINT))
    (client,) = exporter.get_finished_spans()
    assert client.get_span_context().span_id == span.get_span_context().span_id
    assert (client.attributes or {})["istio.destination_workload"] == "ratings-v1"
    assert "traceparent" not in dict(record.headers)
    assert record.context.span_id == f"{client.get_span_context().span_id:016x}"


@pytest.mark.parametrize("name", ["asgi", "wsgi"])
def test_an_instrumented_server_is_not_instrumented_again(
    monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter, name: str
) -> None:
    """OpenTelemetry's middleware inside of ours makes the server span; our client span continues it."""
    monkeypatch.setitem(sys.modules, f"opentelemetry.instrumentation.{name}", ModuleType(name))
    reviews = service("reviews")
    inbound = reviews.inbound(arriving(*CALLER), PEER)
    caller = TraceContextTextMapPropagator().extract(dict(CALLER))
    with trace.get_tracer(name).start_as_current_span("GET /reviews", context=caller, kind=SpanKind.SERVER):
        outbound = reviews.outbound(LEAVING)
        outbound.end(outbound.event(status=200))
    inbound.end(inbound.event(status=200))
    inbound.close()
    spans = by_kind(exporter)
    assert len(exporter.get_finished_spans()) == 2
    assert parent_id(spans[SpanKind.CLIENT]) == f"{spans[SpanKind.SERVER].get_span_context().span_id:016x}"


def test_a_middleware_outside_of_us_is_followed(exporter: InMemorySpanExporter) -> None:
    """Its server span is the current one already."""
    reviews = service("reviews")
    caller = TraceContextTextMapPropagator().extract(dict(CALLER))
    with trace.get_tracer("outer").start_as_current_span("GET", context=caller, kind=SpanKind.SERVER):
        exchange(reviews, *CALLER)
    spans = by_kind(exporter)
    assert len(exporter.get_finished_spans()) == 2
    assert parent_id(spans[SpanKind.CLIENT]) == f"{spans[SpanKind.SERVER].get_span_context().span_id:016x}"


def test_a_span_around_the_whole_server_is_no_parent(exporter: InMemorySpanExporter) -> None:
    """`with start_as_current_span("main"): uvicorn.run(app)`: requests still belong to their callers."""
    with trace.get_tracer("application").start_as_current_span("main"):
        exchange(service("reviews"), *CALLER)
    assert parent_id(by_kind(exporter)[SpanKind.SERVER]) == SPAN


def test_suppressed_instrumentation_is_respected(exporter: InMemorySpanExporter) -> None:
    """An exporter's own requests are not traced."""
    with suppress_http_instrumentation():
        exchange(service("reviews", sampling=1.0))
    assert exporter.get_finished_spans() == ()


def test_without_a_provider_there_are_no_spans(monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter) -> None:
    """The caller's ids are passed on as they came: a trace without holes."""
    provide(monkeypatch, trace.ProxyTracerProvider())
    assert dict(exchange(service("reviews"), *CALLER))["traceparent"] == CALLER[0][1]
    assert exporter.get_finished_spans() == ()
