"""One request, from its first byte to its event: `Telemetry` opens a record, the driver ends it, listeners are told.

    record = telemetry.outbound(request)                   record = telemetry.inbound(request, peer)
    send(request, record.headers)                          run the application; its outgoing requests carry the context on
    record.responded()                                     record.end(record.event(status=200))
    record.end(record.event(status=200, cluster=...))      record.close()

Rule 1: a record ends once; later ends are ignored, so that a `finally` may end what was not ended.
Rule 2: a listener that raises does not harm the request: it is reported once and dropped.
Rule 3: nothing here imports OpenTelemetry; spans exist only if the application has set up an SDK.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import Token
from typing import TYPE_CHECKING

from meshlib.errors import UpstreamError
from meshlib.facts import DryRun, Headers, Peer, Request
from meshlib.telemetry import deadline
from meshlib.telemetry.accesslog import AccessLog
from meshlib.telemetry.context import Propagation, RequestContext, enter, extract, inject, leave, outgoing
from meshlib.telemetry.details import VIA_UPSTREAM, details
from meshlib.telemetry.events import Listener, Reporter, RequestEvent, Workload
from meshlib.telemetry.metrics import RequestMetrics
from meshlib.telemetry.workloads import PEER_HEADER, UpstreamEndpoint, peer_header, peer_workload, upstream_workload

if TYPE_CHECKING:
    from meshlib.telemetry import tracing

_log = logging.getLogger("meshlib.telemetry")

REMOVED_HEADERS = frozenset({PEER_HEADER})
"""Servers remove these from every incoming request before the application sees it."""


class Telemetry:
    """What this process tells about its requests.

    Args:
        local: this process as one side of a request, see `workloads.local_workload`.
        propagation: what travels on, and how many traces begin here.
        access_log: `off`, `text` or `json`.
        monotonic, now: seconds; for durations and for the access log.
        clock: what deadlines are moments of.

    Attributes:
        metrics: counts of every request told so far.

    Raises:
        SettingsError: `access_log` is something else.
    """

    def __init__(
        self,
        local: Workload,
        propagation: Propagation | None = None,
        *,
        access_log: str = "off",
        monotonic: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.local = local
        self.propagation = propagation or Propagation()
        self.monotonic = monotonic
        self.now = now
        self.clock = clock
        self.mesh_headers: Headers = (peer_header(local),)
        self.metrics = RequestMetrics()
        self._listeners: tuple[Listener, ...] = (self.metrics,)
        if access_log != "off":
            self.add_listener(AccessLog(access_log))

    def identify(self, principal: str) -> None:
        """Name our SPIFFE id; called when a certificate arrives."""
        self.local = self.local._replace(principal=principal)
        self.mesh_headers = (peer_header(self.local),)

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of every finished request from now on. It is called where the request ended and must not block."""
        self._listeners = (*self._listeners, listener)

    def tell(self, event: RequestEvent) -> None:
        """Hand an event to all listeners."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a broken listener must not break the request
                self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        _log.warning("meshlib: %r raised and is told nothing any more", listener, exc_info=True)

    def outbound(self, request: Request) -> OutboundRecord:
        """Begin to watch a request that leaves. Its `headers` go on the wire."""
        context = outgoing(request.headers, self.propagation)
        spans = spans_of_application()
        span = spans.client_span(context, request) if spans else None
        return OutboundRecord(self, request, span.context if span else context, span)

    def inbound(self, request: Request, peer: Peer, patience: float | None = None) -> InboundRecord:
        """Begin to watch a request that arrived, and make its context and deadline the current ones until `close`.

        Args:
            patience: seconds that the caller waits, where its protocol says so (gRPC); what its headers say counts as well.
        """
        context = extract(request.headers, self.propagation)
        spans = spans_of_application()
        span = spans.server_span(context, request, peer) if spans else None
        limit = deadline.earlier(patience, deadline.expected_seconds(request.headers))
        until = None if limit is None else self.clock() + limit
        token = deadline.enter(until, called=patience is not None)
        return InboundRecord(self, request, peer, span.context if span else context, span, until, token)


def spans_of_application() -> type[tracing.Spans] | None:
    """The maker of spans, if the application has loaded OpenTelemetry's API and set up a provider; else None."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from meshlib.telemetry import tracing

    return tracing.Spans if tracing.provider() else None


class _Record:
    """What both sides share: when it began, what was asked, that it ends once."""

    __slots__ = ("_ended", "_head", "_span", "_started", "_telemetry", "_wall", "context", "request")

    def __init__(self, telemetry: Telemetry, request: Request, context: RequestContext, span: tracing.Span | None) -> None:
        self._telemetry = telemetry
        self._started = telemetry.monotonic()
        self._wall = telemetry.now()
        self._head: float | None = None
        self._span = span
        self._ended = False
        self.request = request
        self.context = context

    def responded(self) -> None:
        """The head of the response is here."""
        self._head = self._telemetry.monotonic() - self._started

    def end(self, event: RequestEvent) -> None:
        """The request is over; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        if self._span:
            self._span.end(event)
        self._telemetry.tell(event)


class OutboundRecord(_Record):
    """A request that leaves.

    Attributes:
        headers: to set on the request, in place of equal names; the same on every try.
        mesh_headers: to add on tries over mutual TLS only: they tell the server which workload we are.
    """

    __slots__ = ("headers",)

    def __init__(self, telemetry: Telemetry, request: Request, context: RequestContext, span: tracing.Span | None) -> None:
        super().__init__(telemetry, request, context, span)
        headers = inject(context)
        present = {name for name, _ in request.headers}
        if span is not None and span.recorded:
            present -= {"traceparent", "tracestate", "b3", "x-b3-spanid"}  # ours is the parent now
        self.headers = (
            headers if present.isdisjoint(dict(headers)) else tuple(item for item in headers if item[0] not in present)
        )

    @property
    def mesh_headers(self) -> Headers:
        return self._telemetry.mesh_headers

    def event(
        self,
        *,
        status: int,
        cluster: str = "",
        endpoint: UpstreamEndpoint | None = None,
        principal: str = "",
        route: str = "",
        attempts: int = 1,
        flags: str = "-",
        detail: str = "",
        bytes_received: int = 0,
        bytes_sent: int = 0,
        protocol: str = "HTTP/1.1",
        local_address: str = "",
        transport_failure: str = "",
        grpc_status: str = "",
        messages: tuple[int, int] = (0, 0),
    ) -> RequestEvent:
        """What happened, from what the driver knows.

        Args:
            status: of the response; 0 if the application gave up before there was one.
            cluster, endpoint: where it went at last; empty and None if it did not get that far.
            principal: the SPIFFE id that the endpoint proved; empty on plain text.
            flags: Envoy's, `-` for none. `detail` follows from it if empty.
            bytes_received, bytes_sent: of the request's and of the response's body, as Envoy counts.
            local_address: `ip:port` of our end of the connection.
            transport_failure: for flag UF: the words of the operating system or the TLS library.
            grpc_status: the code's number; empty: not gRPC, or there was none.
            messages: of a gRPC call: the request's and the response's.
        """
        headers = dict(self.request.headers)
        return RequestEvent(
            reporter=Reporter.SOURCE,
            source=self._telemetry.local,
            destination=upstream_workload(cluster or self.request.authority.rsplit(":", 1)[0], endpoint, principal),
            method=self.request.method,
            path=self.request.path,
            authority=self.request.authority,
            protocol=protocol,
            status=status,
            flags=flags,
            detail=detail or details(flags),
            started=self._wall,
            duration=self._telemetry.monotonic() - self._started,
            upstream_duration=self._head,
            bytes_received=bytes_received,
            bytes_sent=bytes_sent,
            route=route,
            cluster=cluster,
            endpoint=str(endpoint) if endpoint else "",
            attempts=attempts,
            request_id=self.context.request_id,
            user_agent=headers.get("user-agent", ""),
            forwarded_for=headers.get("x-forwarded-for", ""),
            local_address=local_address,
            transport_failure=transport_failure,
            request_protocol=_protocol(headers),
            grpc_status=grpc_status,
            request_messages=messages[0],
            response_messages=messages[1],
        )

    def failure(
        self, error: UpstreamError, *, endpoint: UpstreamEndpoint | None = None, bytes_received: int = 0
    ) -> RequestEvent:
        """The event of a request that came back as an exception; status is what Envoy would have answered."""
        seen = error.sighting
        event = self.event(
            status=error.status,
            cluster=seen.cluster,
            endpoint=endpoint,
            route=seen.route,
            attempts=seen.attempt,
            flags=error.flag,
            bytes_received=bytes_received,
            transport_failure=seen.detail if error.flag == "UF" else "",
        )
        return event if endpoint else event._replace(endpoint=seen.endpoint)

    def abandoned(self, *, status: int = 0, cluster: str = "", endpoint: UpstreamEndpoint | None = None) -> RequestEvent:
        """The event of a request whose sender did not wait for the end: cancelled, or its own time-out."""
        return self.event(status=status, cluster=cluster, endpoint=endpoint, flags="DC")


class InboundRecord(_Record):
    """A request that arrived. `context` is the current one until `close`, and `until` the current deadline."""

    __slots__ = ("_deadline_token", "_dry_runs", "_peer", "_token", "until")

    def __init__(
        self,
        telemetry: Telemetry,
        request: Request,
        peer: Peer,
        context: RequestContext,
        span: tracing.Span | None,
        until: deadline.Moment | None,
        token: Token[tuple[deadline.Moment | None, bool]],
    ) -> None:
        super().__init__(telemetry, request, context, span)
        self._peer = peer
        self._token: Token[RequestContext | None] | None = enter(context)
        self.until = until
        self._deadline_token = token
        self._dry_runs: tuple[DryRun, ...] = ()

    def judged(self, request: Request, dry_runs: Iterable[DryRun] = ()) -> None:
        """The filters of the port have decided.

        Args:
            request: as they left it; the event tells this one.
            dry_runs: what policies on trial would have done.
        """
        self.request = request
        self._dry_runs = tuple(dry_runs)

    def close(self) -> None:
        """The application is done: what was current before is current again. Idempotent."""
        token, self._token = self._token, None
        if token is not None:
            leave(token)
            deadline.leave(self._deadline_token)
            if self._span:
                self._span.close()

    def event(
        self,
        *,
        status: int,
        flags: str = "-",
        detail: str = "",
        bytes_received: int = 0,
        bytes_sent: int = 0,
        protocol: str = "HTTP/1.1",
        local_address: str = "",
        grpc_status: str = "",
        messages: tuple[int, int] = (0, 0),
    ) -> RequestEvent:
        """What happened, from what the server knows.

        Args:
            status: 0 if the client left before there was a response.
            bytes_received, bytes_sent: of the request's and of the response's body, as Envoy counts.
            local_address: `ip:port` the request came in at.
            grpc_status, messages: as for `OutboundRecord.event`.
        """
        headers = dict(self.request.headers)
        local = self._telemetry.local
        port = local_address.rpartition(":")[2]
        return RequestEvent(
            reporter=Reporter.DESTINATION,
            source=peer_workload(self._peer, headers.get(PEER_HEADER, "")),
            destination=local,
            method=self.request.method,
            path=self.request.path,
            authority=self.request.authority,
            protocol=protocol,
            status=status,
            flags=flags,
            detail=detail or details(flags),
            started=self._wall,
            duration=self._telemetry.monotonic() - self._started,
            upstream_duration=self._head,
            bytes_received=bytes_received,
            bytes_sent=bytes_sent,
            route="default",
            cluster=f"inbound|{port}||",
            peer=self._peer,
            secured=self._peer.secured,
            request_id=self.context.request_id,
            user_agent=headers.get("user-agent", ""),
            forwarded_for=headers.get("x-forwarded-for", ""),
            local_address=local_address,
            request_protocol=_protocol(headers),
            grpc_status=grpc_status,
            request_messages=messages[0],
            response_messages=messages[1],
            dry_runs=self._dry_runs,
        )


def _protocol(headers: dict[str, str]) -> str:
    return "grpc" if headers.get("content-type", "").startswith("application/grpc") else "http"


__all__ = ["REMOVED_HEADERS", "VIA_UPSTREAM", "InboundRecord", "OutboundRecord", "Telemetry", "spans_of_application"]
