"""Calls of `grpc.aio`: a task drives each until its response is committed to; from then on the call is gRPC's own.

The rules are those of `_active.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlib.errors import IdentityError, UpstreamError
from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.exchange import Deliver, LocalReply, Send
from meshlib.runtime.drive import drive_async

from ._active import MOMENT
from ._aio_ends import EMPTY, End, Failed, Settled
from ._call import READY_AGAIN, Call, Codec, Given, Status
from ._convert import Metadata, answer, outcome, response_of
from ._lines import Line
from ._replay import AsyncReplay

if TYPE_CHECKING:
    from meshlib.config.snapshot import Destination

    from .aio_channel import MeshAioChannel

_CANCELLED = "Locally cancelled by application!"
FINISHED = "RPC already finished."


class AioCall:
    """A call of any kind, without the ways to its messages."""

    def __init__(self, channel: MeshAioChannel, codec: Codec, request: Any, given: Given) -> None:
        self._channel = channel
        self._codec = codec
        self._given = given
        self._loop = asyncio.get_running_loop()
        self._settled = Settled(self._loop)
        self._gone = False
        self._task: asyncio.Task[None] | None = None
        self._line: Line | None = None  # of the try under way
        self._end: End | None = None
        self._inner: Any = None  # the try under way
        self._first: asyncio.Future[Any] | None = None
        self._empty_head = False
        self._code: grpc.StatusCode | None = None  # of the try under way, once it is over
        self._callbacks: list[Callable[[Any], None]] = []
        self.call: Call = channel.begin(codec, given)
        self._request = request
        self._body: bytes | AsyncReplay = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._codec.method} {self._inner!r}>"

    def begin(self) -> None:
        """Let it go."""
        self._channel.keep(self)  # type: ignore[arg-type, unused-ignore]
        if self._codec.streams[0]:
            self._body = AsyncReplay(self._request, self._encode)
        else:
            try:
                self._body = self._encode(self._request)
            except Status as status:
                self.call.abandoned()
                self._settle(Failed(status))
                return
        self._task = self._loop.create_task(self._drive())

    def _encode(self, message: Any) -> bytes:
        return self.call.sent.add(self._codec.encode(message))

    # The driver

    async def _drive(self) -> None:
        try:
            inner = await self._final()
        except Status as status:
            inner = Failed(status)
        except asyncio.CancelledError:
            self.call.abandoned()
            inner = Failed(Status(grpc.StatusCode.CANCELLED, _CANCELLED))
        except Exception as error:  # whatever it was, somebody waits for the end
            self.call.abandoned()
            inner = Failed(Status(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}", error))
        self._settle(inner)

    async def _final(self) -> Any:
        while True:
            destination = await self._channel.destination()
            if destination is None:
                return self._outside()
            try:
                return await self._deliver(await drive_async(self._machine(destination), self._attempt, self._pause))
            except UpstreamError as error:
                if not self.call.waits_for(error, self._given.wait_for_ready):
                    raise self.call.failed(error) from error
                await self._pause(READY_AGAIN)

    def _machine(self, destination: Destination) -> Any:
        return self.call.machine(destination)

    def _outside(self) -> Any:
        """It turned out that nobody in the mesh is called so."""
        make = getattr(self._channel.direct(), self._codec.kind)
        body = self._body if isinstance(self._body, bytes) else aiter(self._body)
        return make(self._codec.method, None, self._codec.deserialize)(body, **self._given._asdict())

    async def _deliver(self, final: Deliver | LocalReply) -> Any:
        if isinstance(final, LocalReply):
            raise self.call.replied(final)
        if isinstance(self._body, AsyncReplay):
            self._body.commit()
        self.call.delivered(final)
        inner, line = self._inner, self._line
        assert line is not None
        self._line = None
        self._end = End(self._channel, self.call, line)
        if inner.done():
            await self._end.tell(inner, self._code)
        else:
            inner.add_done_callback(self._end)
        return inner

    async def _attempt(self, send: Send) -> Response | Failure:
        self._drop()
        try:
            line = self._line = await self._channel.line(send)
        except (IdentityError, OSError) as error:
            return Failure(FailureKind.CONNECT, str(error), False, self._replayable)
        self._code = None
        self._inner = self._start(line, send)
        try:
            found = await self._head(send)
        except TimeoutError:
            self._drop()
            return Failure(FailureKind.TIMEOUT, "no response in time", True, self._replayable)
        except grpc.aio.AioRpcError as error:
            return self._judge(error, line)
        self.call.responded(line.principal)
        return found

    def _start(self, line: Line, send: Send) -> Any:
        make = getattr(line.channel, self._codec.kind)
        callable_ = make(send.request.path, None, self._codec.counting(self.call.received))
        body = self._body if isinstance(self._body, bytes) else aiter(self._body)
        metadata = grpc.aio.Metadata(*self.call.metadata(send, secured=line.secured))
        given = self._given
        return callable_(
            body,
            timeout=self._try_seconds(send),
            metadata=metadata,
            credentials=given.credentials,
            compression=given.compression,
        )

    def _try_seconds(self, send: Send) -> float | None:
        """The deadline of gRPC's call."""
        return send.timeout

    @property
    def _replayable(self) -> bool:
        return isinstance(self._body, bytes) or self._body.replayable

    async def _head(self, send: Send) -> Response:
        """Wait until the try is for the caller. Raises AioRpcError, TimeoutError."""
        raise NotImplementedError

    async def _ended_with(self, inner: Any) -> Response:
        """The response of a call that is over. Raises AioRpcError."""
        code = self._code = await inner.code()
        initial = await inner.initial_metadata()
        if code is grpc.StatusCode.OK:
            return response_of(plain(initial))
        words = await inner.details()
        raise grpc.aio.AioRpcError(code, initial, await inner.trailing_metadata(), words)

    def _judge(self, error: grpc.aio.AioRpcError, line: Line) -> Response | Failure:
        code, words, initial = error.code(), error.details() or "", plain(error.initial_metadata())
        connected = line.channel.get_state() is grpc.ChannelConnectivity.READY
        found = outcome(code, words, initial, connected=connected, replayable=self._replayable)
        if isinstance(found, Failure):
            if found.kind is FailureKind.CONNECT:
                self._drop(broken=True)
                if line.problem:
                    return Failure(found.kind, line.problem, False, self._replayable)
            return found
        return found if self._replayable else answer(code, (*initial, ("", "")))

    def _drop(self, *, broken: bool = False) -> None:
        """The try is over and not for the caller."""
        line, self._line = self._line, None
        if line is not None:
            self._first = None
            if self._inner is not None and not self._inner.done():
                self._inner.cancel()
            self._channel.release(line, broken=broken)

    async def _pause(self, seconds: float) -> None:
        self._drop()
        await asyncio.sleep(seconds)

    def _settle(self, inner: Any) -> None:
        self._drop()
        self._inner = inner
        if isinstance(self._body, AsyncReplay):
            inner.add_done_callback(self._body.over)
        if self._gone and not inner.done():
            inner.cancel()
        self._settled.set(inner)
        for callback in self._callbacks:
            inner.add_done_callback(callback)

    # The caller: grpc.aio.Call

    async def _subject(self) -> Any:
        """The call that was committed to, or what stands in its place."""
        if self._settled.value is None:
            await self._settled.reached()
        return self._settled.value

    def cancel(self) -> bool:
        """Give up, also on what the server is doing."""
        if self.done():
            return False
        self._gone = True
        if self._end is not None:
            self._end.gone = True
        if self._settled.value is not None:
            self._settled.value.cancel()
        else:
            self._settled.set(Failed(Status(grpc.StatusCode.CANCELLED, _CANCELLED)))
            if self._task is not None:
                self._task.cancel()
        return True

    def cancelled(self) -> bool:
        """Whether `cancel` ended the call."""
        return self._gone and self.done()

    def done(self) -> bool:
        """Whether it is over."""
        return self._settled.value is not None and bool(self._settled.value.done())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self.call.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call when it is over."""
        if self._settled.value is None:
            self._callbacks.append(lambda _: callback(self))
        else:
            self._settled.value.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> Any:
        """What came before the first message."""
        while self._settled.value is None:
            waited = self._empty_head
            await asyncio.wait([self._settled.reached()], timeout=MOMENT)
            if waited and self._settled.value is None:
                return EMPTY
        return await self._settled.value.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """What came after the last message."""
        return await (await self._subject()).trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """The status."""
        code: grpc.StatusCode = await (await self._subject()).code()
        return code

    async def details(self) -> str:
        """The status' words."""
        return str(await (await self._subject()).details() or "")

    async def debug_error_string(self) -> str:
        """More words, for developers."""
        return str(await (await self._subject()).debug_error_string() or "")

    async def wait_for_connection(self) -> None:
        """Return once the call is on its way. Raises AioRpcError if it failed before."""
        inner = await self._subject()
        if isinstance(inner, Failed):
            raise inner.error()


def plain(metadata: Any) -> Metadata:
    return tuple((name, value) for name, value in metadata or ())
