"""The four kinds of asyncio calls: the ways to the messages of a call, and when a try of it is for the caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import grpc
import grpc.aio

from meshlib.facts import Response
from meshlib.outbound.exchange import Send

from ._aio_calls import FINISHED, AioCall, plain
from ._call import Codec
from ._convert import response_of
from ._replay import AsyncReplay


class _OneResponse(AioCall):
    async def _head(self, send: Send) -> Response:
        """A response and its status come together: the try is judged when it is over."""
        return await self._ended_with(self._inner)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._settled.value is None:
            try:
                yield from self._settled.reached()
            except asyncio.CancelledError:
                self.cancel()
                raise
        return (yield from self._settled.value.__await__())


class _ManyResponses(AioCall):
    def _try_seconds(self, send: Send) -> float | None:
        return self.call.seconds(send)  # of the whole call: a stream outlives its try's timeout

    async def _head(self, send: Send) -> Response:
        async with asyncio.timeout(send.timeout):
            return await self._committed(self._inner)

    async def _committed(self, inner: Any) -> Response:
        initial = plain(await inner.initial_metadata())
        if initial and not inner.done():
            return response_of(initial)
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
        inner = self._settled.value
        if inner is not None and not self._loop.is_closed() and not inner.done():
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
            raise asyncio.InvalidStateError(FINISHED)
        if body.ended:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        await body.write(request)
        if self.done() and (await self.code()) is not grpc.StatusCode.OK:
            raise asyncio.InvalidStateError(FINISHED)

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
