"""Spans through OpenTelemetry's API, for applications that have set up a tracer provider.

The only file of the library that imports OpenTelemetry, itself imported only once the application has loaded its API.

Who decides: our context decides about sampling (rule 2 of `context`), and a sampler of the application may sample less; what
it drops is then unsampled for everybody after. Where OpenTelemetry's own instrumentation of the client or the server is
active, its spans are the trace: ours would tell the same again, so we add Istio's tags to its client span and follow it.

Attributes follow the stable HTTP semantic conventions, for gRPC those of RPC; the tags istio.* are Istio's.
"""

from __future__ import annotations

import re
import sys
from contextvars import Token
from typing import Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from meshlib._version import __version__
from meshlib.facts import Peer, Request
from meshlib.telemetry.context import RequestContext
from meshlib.telemetry.events import Reporter, RequestEvent, Workload

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
# Semantic conventions, url.full and url.query: the values of these are credentials.
_SECRETS: Final = re.compile(r"((?:^|[?&])(?:AWSAccessKeyId|Signature|sig|X-Goog-Signature)=)[^&]*")
# Server instrumentations; whoever imports one uses it. They start a SERVER span from the headers, inside of us.
_SERVERS: Final = ("opentelemetry.instrumentation.asgi", "opentelemetry.instrumentation.wsgi")


def provider() -> trace.TracerProvider | None:
    """The application's tracer provider, or None if it has set none."""
    found = trace.get_tracer_provider()
    return None if isinstance(found, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else found


class Span:
    """One side of one request as a span, or as the mere knowledge of somebody else's span.

    Attributes:
        context: the request's context with this span as the parent of what comes next.
        recorded: whether a span of ours exists.
    """

    __slots__ = ("_owned", "_span", "_token", "context")

    def __init__(
        self,
        context: RequestContext,
        span: trace.Span | None = None,
        *,
        owned: bool = True,
        token: Token[otel.Context] | None = None,
    ) -> None:
        self.context = context
        self._span = span
        self._owned = owned
        self._token = token

    @property
    def recorded(self) -> bool:
        return self._span is not None and self._owned

    def end(self, event: RequestEvent) -> None:
        """Tell the span what happened and finish it, if it is ours."""
        span = self._span
        if span is None:
            return
        for name, value in _outcome(event).items():
            span.set_attribute(name, value)
        if not self._owned:
            return
        if _is_error(event):
            what = event.grpc_status if event.request_protocol == "grpc" else str(event.status)
            span.set_attribute("error.type", event.flags if event.flags not in ("-", "DI") else what)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Make the span no longer OpenTelemetry's current one."""
        token, self._token = self._token, None
        if token is not None:
            otel.detach(token)


class Spans:
    """Makes spans for requests."""

    @staticmethod
    def server_span(context: RequestContext, request: Request, peer: Peer) -> Span | None:
        """The span of a request that arrived, made OpenTelemetry's current one until `close`."""
        if not is_http_instrumentation_enabled() or any(name in sys.modules for name in _SERVERS):
            return None
        outer = trace.get_current_span().get_span_context()
        brought = _came_with_trace(request)
        # An outer middleware's span follows the caller; a span of another trace, as one around the whole server, is not this
        # request's.
        if outer.is_valid and (not brought or outer.trace_id == int(context.trace_id, 16)):
            return Span(_following(context, outer))
        remote = trace.set_span_in_context(NonRecordingSpan(_remote(context)))
        if not context.sampled:
            return Span(context, token=otel.attach(remote))
        parent = remote if brought else otel.Context()
        span = _tracer().start_span(
            _name(request), context=parent, kind=SpanKind.SERVER, attributes=_server_attributes(request, peer)
        )
        return Span(_following(context, span.get_span_context()), span, token=otel.attach(trace.set_span_in_context(span)))

    @staticmethod
    def client_span(context: RequestContext, request: Request) -> Span | None:
        """The span of a request that leaves."""
        if not is_http_instrumentation_enabled():
            return None
        outer = trace.get_current_span()
        parent = outer.get_span_context()
        if parent.is_valid:
            followed = _following(context, parent)
            if _carries(request, parent):  # an instrumented client made a span for exactly this request and put it on it
                return Span(followed, outer, owned=False)
            context = followed
        if not context.sampled:
            return Span(context)
        begun = otel.get_current() if parent.is_valid else trace.set_span_in_context(NonRecordingSpan(_remote(context)))
        span = _tracer().start_span(
            _name(request), context=begun, kind=SpanKind.CLIENT, attributes=_client_attributes(request)
        )
        return Span(_following(context, span.get_span_context()), span)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("meshlib", __version__, schema_url="https://opentelemetry.io/schemas/1.27.0")


def _came_with_trace(request: Request) -> bool:
    return any(name in ("traceparent", "b3", "x-b3-traceid") for name, _ in request.headers)


def _carries(request: Request, parent: SpanContext) -> bool:
    return f"-{parent.span_id:016x}-" in (request.header("traceparent") or request.header("b3") or "")


def _remote(context: RequestContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([context.tracestate]) if context.tracestate else None
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), True, flags, state)


def _following(context: RequestContext, span: SpanContext) -> RequestContext:
    return context._replace(
        trace_id=f"{span.trace_id:032x}",
        span_id=f"{span.span_id:016x}",
        sampled=span.trace_flags.sampled,
        tracestate=span.trace_state.to_header() if span.trace_state else "",
    )


# RPC semantic conventions, gRPC: on a server the caller's own mistakes are no errors.
_SERVER_ERRORS: Final = frozenset({"2", "4", "12", "13", "14", "15"})


def _is_error(event: RequestEvent) -> bool:
    """Semantic conventions: 4xx is an error for the client alone, and so are gRPC's statuses like NOT_FOUND."""
    client = event.reporter is Reporter.SOURCE
    if event.grpc_status and event.status == 200:
        return event.grpc_status != "0" if client else event.grpc_status in _SERVER_ERRORS
    return event.status == 0 or event.status >= (400 if client else 500)


def _is_call(request: Request) -> bool:
    return (request.header("content-type") or "").startswith("application/grpc")


def _name(request: Request) -> str:
    if _is_call(request):
        return request.path.removeprefix("/")
    return request.method if request.method in _METHODS else "HTTP"


def _call(request: Request) -> dict[str, str]:
    service, _, method = request.path.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _method(method: str) -> dict[str, str]:
    if method in _METHODS:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method}


def _redacted(text: str) -> str:
    return _SECRETS.sub(r"\1REDACTED", text)


def _address(authority: str, scheme: str) -> dict[str, str | int]:
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        host, port = authority, "443" if scheme == "https" else "80"
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def _client_attributes(request: Request) -> dict[str, str | int]:
    if _is_call(request):
        return {**_call(request), **_address(request.authority, request.scheme)}
    url = f"{request.scheme}://{request.authority}{_redacted(request.path)}"
    return {**_method(request.method), **_address(request.authority, request.scheme), "url.full": url}


def _server_attributes(request: Request, peer: Peer) -> dict[str, str | int]:
    found: dict[str, str | int] = {**_address(request.authority, request.scheme)}
    if _is_call(request):
        found |= _call(request)
    else:
        path, _, query = request.path.partition("?")
        found |= {**_method(request.method), "url.scheme": request.scheme, "url.path": path}
        if query:
            found["url.query"] = _redacted(query)
    if peer.address:
        found["client.address"] = found["network.peer.address"] = peer.address.rpartition(":")[0].strip("[]")
    agent = request.header("user-agent")
    if agent:
        found["user_agent.original"] = agent
    return found


def _outcome(event: RequestEvent) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "network.protocol.version": event.protocol.rpartition("/")[2],
        "response_flags": event.flags,
        "guid:x-request-id": event.request_id,
        "upstream_cluster": event.cluster,
        **_istio(event),
        **_dry_runs(event),
    }
    if event.grpc_status.isdigit():
        found["rpc.grpc.status_code"] = int(event.grpc_status)
    elif event.status:
        found["http.response.status_code"] = event.status
    if event.attempts > 1:
        found["http.request.resend_count"] = event.attempts - 1
    if event.endpoint:
        host, _, port = event.endpoint.rpartition(":")
        found |= {"network.peer.address": host.strip("[]"), "network.peer.port": int(port)}
    return found


def _dry_runs(event: RequestEvent) -> dict[str, str]:
    """Istio's tags of policies on trial; a name only where one matched."""
    found: dict[str, str] = {}
    for trial in event.dry_runs:
        tag = f"istio.authorization.dry_run.{trial.action}_policy"
        found |= {f"{tag}.result": trial.result, **({f"{tag}.name": trial.policy} if trial.policy else {})}
    return found


def _istio(event: RequestEvent) -> dict[str, str]:
    local = event.source if event.reporter is Reporter.SOURCE else event.destination
    return {
        "istio.canonical_service": local.app or local.workload or "unknown",
        "istio.canonical_revision": local.version or "latest",
        "istio.mesh_id": "cluster.local",
        "istio.namespace": local.namespace or "unknown",
        "istio.cluster_id": local.cluster or "unknown",
        **_side("source", event.source),
        **_side("destination", event.destination),
    }


def _side(side: str, workload: Workload) -> dict[str, str]:
    named = {"workload": workload.workload, "namespace": workload.namespace, "app": workload.app, "version": workload.version}
    return {f"istio.{side}_{name}": value for name, value in named.items() if value}
