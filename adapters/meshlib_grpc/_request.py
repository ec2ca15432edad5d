"""What one blocking call wants, and how its tries are made and judged."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.exchange import Send

from ._call import Codec, Given, Status
from ._convert import Metadata, answer, outcome, suspicious
from ._errors import MeshCallError
from ._lines import Line
from ._replay import SyncReplay

if TYPE_CHECKING:
    from ._channel import MeshChannel

_STATE_SECONDS = 0.5


class Request:
    """What one call wants, whatever its kind.

    Args:
        request: the only message, or an iterable of them.
    """

    __slots__ = ("_body", "_given", "call", "channel", "codec")

    def __init__(self, channel: MeshChannel, codec: Codec, request: Any, given: Given) -> None:
        self.channel = channel
        self.codec = codec
        self.call = channel.begin(codec, given)
        self._given = given
        self._body: bytes | SyncReplay
        if codec.streams[0]:
            self._body = SyncReplay(request, self._encode)
        else:
            self._body = self._encode(request)

    def _encode(self, message: Any) -> bytes:
        try:
            return self.call.sent.add(self.codec.encode(message))
        except Status as status:
            self.call.abandoned()
            raise MeshCallError(status) from status.__cause__

    @property
    def wait_for_ready(self) -> bool | None:
        """Whether the caller wants to wait for what is not there yet."""
        return self._given.wait_for_ready

    @property
    def replayable(self) -> bool:
        """Whether all that was sent could be sent again."""
        return isinstance(self._body, bytes) or self._body.replayable

    def commit(self) -> None:
        """Nothing will be sent again."""
        if not isinstance(self._body, bytes):
            self._body.commit()

    def answered(self, line: Line, send: Send) -> tuple[bytes, grpc.Call]:
        """Make a try of a call with one response, and wait for it. Raises grpc.RpcError."""
        found: tuple[bytes, grpc.Call] = line.on_bytes(self.codec.kind, send.request.path).with_call(
            *self._arguments(line, send, send.timeout)
        )
        return found

    def start(self, line: Line, send: Send, how: str, timeout: float | None) -> Any:
        """Begin a try.

        Args:
            how: the method of gRPC's callable: `__call__`, `future`.
        """
        make = getattr(line.channel, self.codec.kind)
        callable_ = make(send.request.path, None, self.codec.counting(self.call.received))
        return getattr(callable_, how)(*self._arguments(line, send, timeout))

    def _arguments(self, line: Line, send: Send, timeout: float | None) -> tuple[Any, ...]:
        body = self._body if isinstance(self._body, bytes) else iter(self._body)
        metadata = self.call.metadata(send, secured=line.secured)
        return body, timeout, metadata, self._given.credentials, None, self._given.compression

    def judge(self, error: Any, line: Line) -> Response | Failure:
        """What an error of gRPC's means."""
        code, words, initial = error.code(), error.details() or "", plain(error.initial_metadata())
        connected = not suspicious(code, words) or connection_stands(line.channel)
        found = outcome(code, words, initial, connected=connected, replayable=self.replayable)
        if isinstance(found, Failure):
            if found.kind is FailureKind.CONNECT and line.problem:
                return Failure(found.kind, line.problem, False, self.replayable)
            return found
        return found if self.replayable else answer(code, (*initial, ("", "")))

    def unconnected(self, error: Exception) -> Failure:
        """There is no line to be had."""
        return Failure(FailureKind.CONNECT, str(error), False, self.replayable)


def plain(metadata: Any) -> Metadata:
    return tuple([(item[0], item[1]) for item in metadata]) if metadata else ()


def connection_stands(channel: grpc.Channel) -> bool:
    """Whether a channel has a connection, as far as it says so in time. Asked on failures only: it costs a thread."""
    seen = threading.Event()
    states: list[grpc.ChannelConnectivity] = []

    def told(state: grpc.ChannelConnectivity) -> None:
        states.append(state)
        seen.set()

    channel.subscribe(told)
    seen.wait(_STATE_SECONDS)
    channel.unsubscribe(told)
    return bool(states) and states[0] is grpc.ChannelConnectivity.READY
