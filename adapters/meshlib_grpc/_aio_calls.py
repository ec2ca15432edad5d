"""Calls of `grpc.aio`: a task drives each until its response is committed to; from then on the call is gRPC's own.

The rules are those of `_active.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlib.errors import IdentityError, UpstreamError
from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.exchange import Deliver, LocalReply, Send
from meshlib.runtime.drive import drive_async

from ._active import MOMENT
from ._aio_ends import EMPTY, End, Failed, over
from ._call import READY_AGAIN, Call, Codec, Status
from ._convert import Metadata, answer, headers_of, outcome
from ._lines import Line
from ._replay import AsyncReplay

if TYPE_CHECKING:
    from meshlib.config.snapshot import Destination

    from .aio_channel import MeshAioChannel

_CANCELLED = "Locally cancelled by application!"
_FINISHED = "RPC already finished."


class AioCall:
    """A call of any kind, without the ways to its messages."""

    def __init__(self, channel: MeshAioChannel, codec: Codec, request: Any, given: dict[str, Any]) -> None:
        self._channel = channel
        self._codec = codec
        self._given = given
        self._loop = asyncio.get_running_loop()
        self._settled: asyncio.Future[Any] = self._loop.create_future()
        self._over = asyncio.Event()
        self._gone = False
        self._task: asyncio.Task[None] | None = None
        self._line: Line | None = None  # of the try under way
        self._end: End | None = None
        self._inner: Any = None  # the try under way
        self._first: asyncio.Future[Any] | None = None
        self._empty_head = False
        self._passed = {"credentials": given["credentials"], "compression": given["compression"]}
        self.call: Call = channel.begin(codec, given["metadata"], given["timeout"])
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
                if not self.call.waits_for(error, self._given["wait_for_ready"]):
                    raise self.call.failed(error) from error
                await self._pause(READY_AGAIN)

    def _machine(self, destination: Destination) -> Any:
        return self.call.machine(destination)

    def _outside(self) -> Any:
        """It turned out that nobody in the mesh is called so."""
        make = getattr(self._channel.direct(), self._codec.kind)
        body = self._body if isinstance(self._body, bytes) else aiter(self._body)
        return make(self._codec.method, None, self._codec.deserialize)(body, **self._given)

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
            await self._end.tell(inner)
        else:
            inner.add_done_callback(self._end)
        return inner

    async def _attempt(self, send: Send) -> Response | Failure:
        self._drop()
        try:
            line = self._line = await self._channel.line(send)
        except (IdentityError, OSError) as error:
            return Failure(FailureKind.CONNECT, str(error), False, self._replayable)
        self._inner = self._start(line, send)
        try:
            async with asyncio.timeout(send.timeout):
                found = await self._head()
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
        return callable_(body, timeout=self.call.seconds(send), metadata=metadata, **self._passed)

    @property
    def _replayable(self) -> bool:
        return isinstance(self._body, bytes) or self._body.replayable

    async def _head(self) -> Response:
        """Wait until the try is for the caller. Raises AioRpcError."""
        raise NotImplementedError

    async def _ended_with(self, inner: Any) -> Response:
        """The response of a call that is over. Raises AioRpcError."""
        code, initial = await inner.code(), await inner.initial_metadata()
        if code is grpc.StatusCode.OK:
            return Response(200, headers_of(_plain(initial)))
        words = await inner.details()
        raise grpc.aio.AioRpcError(code, initial, await inner.trailing_metadata(), words)

    def _judge(self, error: grpc.aio.AioRpcError, line: Line) -> Response | Failure:
        code, words, initial = error.code(), error.details() or "", _plain(error.initial_metadata())
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
        inner.add_done_callback(partial(over, self._over, self._body))
        if not self._settled.done():
            self._settled.set_result(inner)
        elif not inner.done():  # cancelled in the meantime
            inner.cancel()

    # The caller: grpc.aio.Call

    async def _subject(self) -> Any:
        """The call that was committed to, or what stands in its place."""
        return await asyncio.shield(self._settled)

    def cancel(self) -> bool:
        """Give up, also on what the server is doing."""
        if self.done():
            return False
        self._gone = True
        if self._end is not None:
            self._end.gone = True
        if self._settled.done():
            self._settled.result().cancel()
        else:
            self._settled.set_result(Failed(Status(grpc.StatusCode.CANCELLED, _CANCELLED)))
            if self._task is not None:
                self._task.cancel()
        return True

    def cancelled(self) -> bool:
        """Whether `cancel` ended the call."""
        return self._gone and self.done()

    def done(self) -> bool:
        """Whether it is over."""
        return self._settled.done() and bool(self._settled.result().done())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self.call.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with this call when it is over."""
        self._settled.add_done_callback(lambda settled: settled.result().add_done_callback(lambda _: callback(self)))

    async def initial_metadata(self) -> Any:
        """What came before the first message."""
        while not self._settled.done():
            waited = self._empty_head
            await asyncio.wait([self._settled], timeout=MOMENT)
            if waited and not self._settled.done():
                return EMPTY
        return await self._settled.result().initial_metadata()

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


def _plain(metadata: Any) -> Metadata:
    return tuple((name, value) for name, value in metadata or ())


class _OneResponse(AioCall):
    async def _head(self) -> Response:
        """A response and its status come together: the try is judged when it is over."""
        return await self._ended_with(self._inner)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            inner = yield from asyncio.shield(self._settled).__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return (yield from inner.__await__())


class _ManyResponses(AioCall):
    async def _head(self) -> Response:
        inner = self._inner
        initial = _plain(await inner.initial_metadata())
        if initial and not inner.done():
            return Response(200, headers_of(initial))
        self._empty_head = True
        first = self._first = asyncio.ensure_future(inner.read())
        try:
            message = await asyncio.shield(first)
        except asyncio.CancelledError:
            first.cancel()
            raise
        if message is grpc.aio.EOF:
            return await self._ended_with(inner)
        return Response(200)

    async def read(self) -> Any:
        """The next response; `grpc.aio.EOF` after the last. Raises AioRpcError if the call failed."""
        inner = await self._wanted()
        first, self._first = self._first, None
        try:
            message = await (inner.read() if first is None else first)
        finally:
            if self._end is not None and inner.done():
                await self._end.tell(inner)
        return message

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses()

    async def _responses(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def __del__(self) -> None:
        """Forgotten before its end: the endpoint must not count as busy for ever. May run in any thread."""
        if self._settled.done() and not self._loop.is_closed():
            inner = self._settled.result()
            if not inner.done():
                if self._end is not None:
                    self._end.gone = True
                self._loop.call_soon_threadsafe(inner.cancel)

    async def _wanted(self) -> Any:
        try:
            return await self._subject()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _drop(self, *, broken: bool = False) -> None:
        if self._line is not None:
            first = self._first
            if first is not None and not first.done():
                first.cancel()
        super()._drop(broken=broken)


class _ManyRequests(AioCall):
    @property
    def _done_writing_flag(self) -> bool:
        """gRPC's machinery of interceptors looks at this when the application writes."""
        return isinstance(self._body, AsyncReplay) and self._body.ended

    async def write(self, request: Any) -> None:
        """Send a request; returns when gRPC has taken it."""
        body = self._written()
        if self.done():
            raise asyncio.InvalidStateError(_FINISHED)
        if body.ended:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        await body.write(request, self._over)
        if self.done() and (await self.code()) is not grpc.StatusCode.OK:
            raise asyncio.InvalidStateError(_FINISHED)

    async def done_writing(self) -> None:
        """No request follows."""
        self._written().end()

    def _written(self) -> AsyncReplay:
        body = self._body
        if not isinstance(body, AsyncReplay) or not body.written:
            raise grpc.aio.UsageError("The call was given an iterator of requests; it cannot be written to as well.")
        return body


class UnaryUnary(_OneResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]  # grpc has no type information
    """A call with one request and one response."""


class UnaryStream(_ManyResponses, grpc.aio.UnaryStreamCall):  # type: ignore[misc]  # grpc has no type information
    """A call with one request and a stream of responses."""


class StreamUnary(_ManyRequests, _OneResponse, grpc.aio.StreamUnaryCall):  # type: ignore[misc]  # grpc has no type information
    """A call with a stream of requests and one response."""


class StreamStream(_ManyRequests, _ManyResponses, grpc.aio.StreamStreamCall):  # type: ignore[misc]  # grpc has no type information
    """A call with streams both ways."""


_CLASSES: dict[tuple[bool, bool], type[AioCall]] = {
    (False, False): UnaryUnary,
    (False, True): UnaryStream,
    (True, False): StreamUnary,
    (True, True): StreamStream,
}


def call_class(codec: Codec) -> type[AioCall]:
    """The class of a method's calls."""
    return _CLASSES[codec.streams]
