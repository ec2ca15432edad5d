"""One request of the caller's, from its first moment to its event: what the two shells share.

A shell owns connections and waiting. Everything that is said about a request, in whatever shell, is said here: what goes on
the wire for a try, how long to wait, what a failed try is called, and what telemetry hears at the end (once).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Protocol

from meshlib.config.snapshot import Absent, Destination
from meshlib.errors import ConnectionTerminated, ProtocolFailure, Sighting, UpstreamError, UpstreamTimeout
from meshlib.facts import Failure, FailureKind, Headers, Request
from meshlib.outbound.balance import Balancers
from meshlib.outbound.exchange import Deliver, LocalReply, Send, joined_flags
from meshlib.runtime.http1 import (
    BodyFailed,
    Framing,
    MalformedResponse,
    PeerClosed,
    ResponseHead,
    ResponseParser,
    framing,
    request_head,
)
from meshlib.runtime.pool import Key, key_of
from meshlib.runtime.timing import CallerTimeout, Limit, Patience, Timeout, TryTimeout, TurnTimeout, earliest
from meshlib.runtime.tls import TlsLayer
from meshlib.telemetry.details import VIA_UPSTREAM
from meshlib.telemetry.records import Telemetry

clock = time.monotonic

# RFC 9110 9.2.2: sending them twice means the same as once.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


_KNOWN = frozenset(HTTPStatus)


class ClientTls(Protocol):
    """Our certificate, ready for a client's handshake."""

    @property
    def context(self) -> ssl.SSLContext:
        """Shows our certificate, verifies the peer's chain."""

    @property
    def generation(self) -> int:
        """Grows with each new certificate; from 1."""


class ClientCertificates(Protocol):
    """Where our certificate is kept."""

    def client_context(self, alpn: tuple[str, ...] = ...) -> ClientTls:
        """The newest, for these protocols; default: HTTP/1.1. Raises NoCertificate."""


class Joined(Protocol):
    """The mesh as its clients see it."""

    @property
    def telemetry(self) -> Telemetry:
        """Who is told."""

    @property
    def certificates(self) -> ClientCertificates:
        """Who we are."""

    @property
    def balancers(self) -> Balancers:
        """One set per process: loops and threads send to the same endpoints."""

    def destination(self, authority: str) -> Destination | Absent | None:
        """What is known; None: nobody asked yet."""

    def resolve(self, authority: str) -> Destination | Absent:
        """Ask and wait."""

    async def resolve_async(self, authority: str) -> Destination | Absent:
        """Ask and wait."""


class Call:
    """One request on its way, over all its tries.

    Args:
        request: as the caller made it.
        body: bytes, None, or any iterable, which can be sent once only.
        timeout: the caller's limits.
    """

    __slots__ = ("_certificates", "_sent", "_touched", "body", "cause", "framing", "patience", "record", "request", "timeout")

    def __init__(self, mesh: Joined, request: Request, body: object, timeout: Timeout) -> None:
        self.record = mesh.telemetry.outbound(request)
        self.request = with_headers(request, self.record.headers)
        self.body = body
        self.framing = Framing(0)
        self.timeout = timeout
        self.patience = Patience(timeout, clock())
        self.cause: Exception | None = None
        self._certificates = mesh.certificates
        self._sent: Send | None = None
        self._touched = False

    @property
    def one_shot(self) -> bool:
        """Whether the body can be sent once only."""
        return not (self.body is None or isinstance(self.body, bytes))

    @property
    def _replayable(self) -> bool:
        return not (self.one_shot and self._touched)

    def destined(self, send: Send) -> tuple[Key, ClientTls | None]:
        """Where this try goes and, for mutual TLS, as whom.

        Raises:
            NoCertificate: mutual TLS is asked for, and we hold none that is valid.
        """
        self._sent = send
        if not send.endpoint.tls or send.cluster.tls is None:
            return key_of(send.endpoint, send.cluster, 0), None
        tls = self._certificates.client_context()
        return key_of(send.endpoint, send.cluster, tls.generation), tls

    def layer(self, send: Send, tls: ClientTls | None) -> TlsLayer | None:
        """The session of a new connection; None for plain text."""
        if tls is None or send.cluster.tls is None:
            return None
        return TlsLayer(tls.context, server_side=False, server_hostname=send.cluster.tls.sni)

    def connect_seconds(self, send: Send) -> float | None:
        """How long connecting may take, handshake included."""
        return earliest(send.cluster.connect_timeout, self.timeout.connect, send.timeout)

    def head(self, send: Send, secured: bool) -> bytes:
        """The head of this try on the wire.

        Raises:
            InvalidRequest: it cannot be written as HTTP/1.1.
        """
        # Who we are goes to proven members of the mesh only.
        added = (*send.headers, *self.record.mesh_headers) if secured else send.headers
        self.framing = framing(send.request, self.body)
        return request_head(send.request, added, self.framing.length)

    def limits(self, ends: float | None) -> Callable[[bool], Limit]:
        """How long to wait for the head of the response.

        Args:
            ends: when the route stops waiting for this try.
        """
        self._touched = True
        was_sending = self.one_shot

        def limit(sending: bool) -> Limit:
            nonlocal was_sending
            if was_sending:  # the caller's read timeout starts when the request is out
                self.patience.restart(clock())
            was_sending = sending
            return self.patience.limit("write" if sending else "read", ends)

        return limit

    def turn(self, ends: float | None) -> Limit:
        """How long to wait for a connection that others use.

        Args:
            ends: when the route stops waiting for this try.
        """
        now, seconds = clock(), self.timeout.pool
        return (
            Limit(ends)
            if seconds is None or (ends is not None and ends < now + seconds)
            else Limit(now + seconds, "pool", seconds)
        )

    def unconnected(self, error: Exception, seconds: float | None) -> Failure:
        """A try that got no connection.

        Args:
            seconds: what it was given.

        Raises:
            CallerTimeout: no try's failure but the caller's own.
        """
        if isinstance(error, CallerTimeout):
            raise error
        self.cause = error
        if isinstance(error, TurnTimeout):
            return Failure(FailureKind.TIMEOUT, _words(error), False, self._replayable)
        send = self._sent
        if isinstance(error, TimeoutError):
            kind = FailureKind.TIMEOUT if send and seconds == send.timeout else FailureKind.CONNECT
            return Failure(kind, f"no connection within {seconds:g} s" if seconds else str(error), False, self._replayable)
        return Failure(FailureKind.CONNECT, _words(error), False, self._replayable)

    def may_replay(self, error: Exception, parser: ResponseParser) -> bool:
        """Whether to send again at once what met a connection that died while it was idle: the peer cannot have seen it.

        Sure only if no byte came back, and harmless even if not: for idempotent methods.
        """
        gone = isinstance(error, OSError) and not isinstance(error, TimeoutError)
        return gone and not parser.touched and self._replayable and self.request.method in _IDEMPOTENT

    def failure(self, error: Exception, parser: ResponseParser) -> Failure:
        """A try that got a connection and no response.

        Raises:
            CallerTimeout, BodyFailed: no try's failure but the caller's own.
        """
        if isinstance(error, (CallerTimeout, BodyFailed)):
            raise error
        self.cause = error
        if isinstance(error, TryTimeout):
            return Failure(FailureKind.TIMEOUT, "no response in time", True, self._replayable)
        if isinstance(error, MalformedResponse):
            return Failure(FailureKind.PROTOCOL, str(error), True, self._replayable)
        if isinstance(error, ssl.SSLError) and not parser.touched:
            # TLS 1.3: a server refuses our certificate after our side of the handshake is done.
            return Failure(FailureKind.CONNECT, _words(error), False, self._replayable)
        return Failure(FailureKind.RESET, _words(error), True, self._replayable)

    def responded(self, head: ResponseHead) -> None:
        """The head of a response came."""
        self.record.responded()
        self.cause = None

    def pause(self, seconds: float) -> tuple[float, TimeoutError | None]:
        """How long to sleep really, and whether the caller gives up then."""
        now = clock()
        limit = self.patience.limit("read", now + seconds)
        if limit.operation is None or limit.at is None:
            return seconds, None
        return max(0.0, limit.at - now), limit.error()

    def ended_without_response(self, error: BaseException) -> BaseException:
        """What to raise for it. Telemetry is told."""
        if isinstance(error, UpstreamError):
            self.record.end(self.record.failure(error, endpoint=self._sent.endpoint if self._sent else None))
            error.__cause__ = self.cause
            return error
        self.record.end(self.record.abandoned(cluster=self._sent.cluster.name if self._sent else ""))
        if isinstance(error, CallerTimeout):
            return _from(UpstreamTimeout(self._sighting("DC", str(error))), error)
        if isinstance(error, BodyFailed) and error.__cause__ is not None:
            return error.__cause__
        return error

    def _sighting(self, flag: str, detail: str) -> Sighting:
        asked = self.request
        seen = Sighting(asked.authority, flag=flag, detail=detail, method=asked.method, path=asked.path)
        if self._sent is None:
            return seen
        send = self._sent
        return replace(seen, cluster=send.cluster.name, endpoint=str(send.endpoint), attempt=send.attempt)


class Delivery:
    """The response that the caller gets: what is told about it when its body ends, in whatever way. Only the first way counts.

    Args:
        principal: SPIFFE id that the endpoint proved; empty on plain text.
        local_address: our end of the connection.
    """

    __slots__ = ("_call", "_deliver", "_principal", "_received", "head", "local_address")

    def __init__(self, call: Call, deliver: Deliver, head: ResponseHead, principal: str, local_address: str) -> None:
        self._call = call
        self._deliver = deliver
        self._principal = principal
        self._received = 0
        self.head = head
        self.local_address = local_address

    @property
    def sighting(self) -> Sighting:
        """What the mesh saw."""
        return self._sighting(self._deliver.flag, VIA_UPSTREAM)

    def _sighting(self, flag: str, detail: str) -> Sighting:
        to, asked = self._deliver, self._call.request
        place = (to.route.name, to.cluster.name, str(to.endpoint), to.attempts)
        return Sighting(asked.authority, *place, flag, detail, asked.method, asked.path)

    def limit(self) -> Limit:
        """How long to wait for the next piece of the body."""
        self._call.patience.restart(clock())
        return self._call.patience.limit("read", self._deliver.deadline)

    def received(self, size: int) -> None:
        """A piece of the body came, of so many bytes."""
        self._received += size

    def complete(self) -> None:
        """The body ended as it should."""
        self._end(self._deliver.flag or "-", VIA_UPSTREAM)

    def left(self) -> None:
        """The caller did not wait for the end."""
        self._end(joined_flags("DC", self._deliver.flag))

    def broken(self, error: BaseException) -> BaseException:
        """What to raise for a body that broke off."""
        if not isinstance(error, (OSError, MalformedResponse)):
            self.left()  # cancelled, or the caller's own body failed
            return error.__cause__ or error if isinstance(error, BodyFailed) else error
        kind = _kind_of(error)
        if kind is not UpstreamTimeout:
            self._deliver.load.broken(clock())
        flag = joined_flags("DC" if isinstance(error, CallerTimeout) else kind.flag, self._deliver.flag)
        self._end(flag)
        return _from(kind(self._sighting(flag, f"while the response's body was read: {_words(error)}")), error)

    def _end(self, flags: str, detail: str = "") -> None:
        to, call = self._deliver, self._call
        to.load.done()
        call.record.end(
            call.record.event(
                status=self.head.status,
                cluster=to.cluster.name,
                endpoint=to.endpoint,
                principal=self._principal,
                route=to.route.name,
                attempts=to.attempts,
                flags=flags,
                detail=detail,
                bytes_received=len(call.body) if isinstance(call.body, bytes) else call.framing.written,
                bytes_sent=self._received,
                local_address=self.local_address,
            )
        )


def replied(call: Call, reply: LocalReply) -> tuple[ResponseHead, Sighting]:
    """What configuration answered, as a response. Telemetry is told."""
    route = reply.route.name if reply.route else ""
    call.record.end(
        call.record.event(
            status=reply.status,
            cluster=reply.cluster,
            route=route,
            attempts=0,
            flags=reply.flag or "-",
            detail=reply.detail,
            bytes_sent=len(reply.body),
        )
    )
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    asked = call.request
    sighting = Sighting(asked.authority, route, reply.cluster, "", 0, reply.flag, reply.detail, asked.method, asked.path)
    reason = HTTPStatus(reply.status).phrase if reply.status in _KNOWN else ""
    return ResponseHead(reply.status, reason.encode("ascii"), headers, "1.1"), sighting


def with_headers(request: Request, added: Headers) -> Request:
    """The request with headers set, in place of its own of the same name."""
    if not added:
        return request
    names = dict(added)
    kept = tuple([header for header in request.headers if header[0] not in names])
    return Request(request.method, request.scheme, request.authority, request.path, kept + added)


def _kind_of(error: Exception) -> type[UpstreamError]:
    if isinstance(error, (CallerTimeout, TryTimeout)):
        return UpstreamTimeout
    # An orderly end in the middle of a body breaks the protocol (Envoy: UPE), a reset breaks the connection (UC).
    return ProtocolFailure if isinstance(error, (MalformedResponse, PeerClosed)) else ConnectionTerminated


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _from(error: UpstreamError, cause: Exception) -> UpstreamError:
    error.__cause__ = cause
    return error
