"""One call on its way, over all its tries: what the sync and the asyncio channel share.

A channel owns connections and waiting; `outbound.exchange` decides. Here is what is said about a call: what goes on the wire
for a try, how an error is told to the application, and what telemetry hears at the end, once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from meshlib.config.snapshot import Destination
from meshlib.errors import ConnectFailure, NoHealthyUpstream, UpstreamError, UpstreamTimeout
from meshlib.outbound.exchange import Deliver, Exchange, LocalReply, Send, exchange
from meshlib.runtime.call import Joined, with_headers
from meshlib.telemetry import deadline
from meshlib.telemetry.events import RequestEvent

from ._convert import Metadata, metadata_for, metadata_of, number_of, request_of, status_of

clock = time.monotonic

PROTOCOL = "HTTP/2"
READY_AGAIN = 0.1
"""Seconds until a call with `wait_for_ready` looks again for what was not there."""


class Status(Exception):
    """A call ended without the peer: what the application is told.

    Args:
        cause: what the mesh saw.
    """

    def __init__(self, code: grpc.StatusCode, details: str, cause: Exception | None = None) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.__cause__ = cause


def closed() -> Status:
    """What ends calls under way when their channel closes, in gRPC's words."""
    return Status(grpc.StatusCode.CANCELLED, "Channel closed!")


class Codec(NamedTuple):
    """How messages of one method become bytes and back; None: they are bytes.

    Args:
        method: `/pkg.Service/Method`.
        streams: whether the request and the response are streams.
    """

    method: str
    serialize: Callable[[Any], bytes] | None
    deserialize: Callable[[bytes], Any] | None
    streams: tuple[bool, bool]

    @property
    def kind(self) -> str:
        """The name of a channel's method that makes such calls."""
        return _KINDS[self.streams]

    def encode(self, message: Any) -> bytes:
        """Raises Status as gRPC's own channels do: INTERNAL."""
        try:
            return message if self.serialize is None else self.serialize(message)
        except Exception as error:  # whatever the application's serializer raises
            raise Status(grpc.StatusCode.INTERNAL, "Exception serializing request!", error) from error

    def decode(self, data: bytes) -> Any:
        """Raises Status as gRPC's own channels do: INTERNAL."""
        try:
            return data if self.deserialize is None else self.deserialize(data)
        except Exception as error:  # whatever the application's deserializer raises
            raise Status(grpc.StatusCode.INTERNAL, "Exception deserializing response!", error) from error

    def counting(self, tally: Tally) -> Callable[[bytes], Any]:
        """The deserializer, which counts what it gets."""
        decode = self.deserialize
        return tally.add if decode is None else lambda data: decode(tally.add(data))


class Given(NamedTuple):
    """What the caller gave beside the request, in the order of gRPC's own arguments."""

    timeout: float | None = None
    metadata: Any = None
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class Tally:
    """Messages of one direction and their bytes."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0

    def add(self, data: bytes) -> bytes:
        """Count a message, and give it back."""
        self.messages += 1
        self.size += len(data)
        return data


class Call:
    """One call.

    Args:
        authority: `reviews:9080`.
        metadata: the caller's.
        timeout: the caller's, seconds; None: none.
    """

    __slots__ = ("_deliver", "_mesh", "_metadata", "_principal", "_sent", "received", "record", "request", "sent", "until")

    def __init__(self, mesh: Joined, authority: str, method: str, metadata: Any, timeout: float | None) -> None:
        self._mesh = mesh
        self._metadata = metadata_of(metadata)
        facts = request_of(authority, method, self._metadata)
        self.record = mesh.telemetry.outbound(facts)
        self.request = with_headers(facts, self.record.headers)
        self.until = deadline.earlier(None if timeout is None else clock() + timeout, deadline.current())
        self.sent = Tally()
        self.received = Tally()
        self._sent: Send | None = None
        self._deliver: Deliver | None = None
        self._principal = ""

    def machine(self, destination: Destination, *, replayable: bool = True) -> Exchange:
        """The decisions of this call."""
        return exchange(
            destination,
            self.request,
            self._mesh.balancers,
            clock,
            random.random,
            replayable=replayable,
            until=self.until,
            multiplexed=True,
        )

    def metadata(self, send: Send, *, secured: bool) -> Metadata:
        """The metadata of a try. Who we are goes to proven members of the mesh only."""
        self._sent = send
        added = (*self.record.headers, *send.headers, *(self.record.mesh_headers if secured else ()))
        return metadata_for(self._metadata, send.request.headers, added)

    @staticmethod
    def seconds(send: Send) -> float | None:
        """What is left for the whole call; goes to the server as `grpc-timeout`. None: no limit."""
        return None if send.deadline is None else max(0.0, send.deadline - clock())

    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting; None: never."""
        return None if self.until is None else max(0.0, self.until - clock())

    def responded(self, principal: str) -> None:
        """The head of a response came, from whom."""
        self._principal = principal
        self.record.responded()

    def delivered(self, deliver: Deliver) -> None:
        """The try under way is the one for the caller."""
        self._deliver = deliver

    def waits_for(self, error: UpstreamError, wait_for_ready: bool | None) -> bool:
        """Whether to begin anew: the caller wants to wait for what is not there yet, and has time."""
        left = self.remaining()
        missing = isinstance(error, (ConnectFailure, NoHealthyUpstream))
        return bool(wait_for_ready) and missing and (left is None or left > READY_AGAIN)

    def replied(self, reply: LocalReply) -> Status:
        """What configuration answered. Telemetry is told."""
        code, details = status_of(reply.status, reply.headers, reply.body)
        detail = reply.detail
        if not details:
            details = f"meshlib: {reply.flag}: {detail} (to {self.request.authority}{self.request.path})"
        route = reply.route.name if reply.route else ""
        self.record.end(
            self.record.event(
                status=200,
                grpc_status=number_of(code),
                route=route,
                attempts=0,
                flags=reply.flag,
                detail=detail,
                protocol=PROTOCOL,
                messages=self._messages,
            )
        )
        return Status(code, details)

    def failed(self, error: BaseException) -> BaseException:
        """What to raise for a call without a response. Telemetry is told."""
        endpoint = self._sent.endpoint if self._sent else None
        if isinstance(error, UpstreamError):
            code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(error, UpstreamTimeout) else grpc.StatusCode.UNAVAILABLE
            told = self.record.failure(error, endpoint=endpoint)
            # Envoy answers a gRPC request with 200 and the code in the headers, whatever went wrong.
            self.record.end(self._counted(told._replace(status=200, grpc_status=number_of(code))))
            return Status(code, str(error.sighting), error)
        self.abandoned()
        return error

    def abandoned(self) -> None:
        """The caller gave up."""
        if self._deliver is not None:
            self._deliver.load.done()
        event = self.record.abandoned(cluster=self._sent.cluster.name if self._sent else "", endpoint=self._endpoint)
        self.record.end(self._counted(event))

    @property
    def _endpoint(self) -> Any:
        return self._sent.endpoint if self._sent else None

    def ended(self, code: grpc.StatusCode, *, flags: str = "") -> None:
        """The delivered response is complete, or broke off. Only the first time counts.

        Args:
            flags: Envoy's, if the connection or a timeout ended it.
        """
        to = self._deliver
        assert to is not None, "ended after delivered"
        to.load.done()
        self.record.end(
            self.record.event(
                status=200,
                grpc_status=number_of(code),
                cluster=to.cluster.name,
                endpoint=to.endpoint,
                principal=self._principal,
                route=to.route.name,
                attempts=to.attempts,
                flags=flags or to.flag or "-",
                protocol=PROTOCOL,
                bytes_received=self.sent.size,
                bytes_sent=self.received.size,
                messages=self._messages,
            )
        )

    def past(self, code: grpc.StatusCode, words: str) -> str:
        """The flag for a delivered response that ended like this: `UT` if it was the deadline; empty for the peer's own."""
        limit = self._deliver.deadline if self._deliver else None
        local = code is grpc.StatusCode.DEADLINE_EXCEEDED and words == "Deadline Exceeded"
        return "UT" if local and limit is not None and clock() >= limit - 0.01 else ""

    @property
    def _messages(self) -> tuple[int, int]:
        return self.sent.messages, self.received.messages

    def _counted(self, event: RequestEvent) -> RequestEvent:
        return event._replace(
            protocol=PROTOCOL,
            bytes_received=self.sent.size,
            bytes_sent=self.received.size,
            request_messages=self.sent.messages,
            response_messages=self.received.messages,
        )
