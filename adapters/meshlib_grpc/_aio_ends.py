"""The ends of asyncio calls: one that the mesh itself made, and what is done at all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ._call import Call, Status
from ._lines import Line

if TYPE_CHECKING:
    from .aio_channel import MeshAioChannel

EMPTY = grpc.aio.Metadata()


class Failed:
    """Stands where gRPC's call would be: the mesh itself ended this one."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def error(self) -> BaseException:
        """What the caller gets."""
        if self._status.code is grpc.StatusCode.CANCELLED:
            return asyncio.CancelledError()
        details = self._status.details
        error: BaseException = grpc.aio.AioRpcError(self._status.code, EMPTY, EMPTY, details, details)
        error.__cause__ = self._status.__cause__
        return error

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def initial_metadata(self) -> Any:
        return EMPTY

    async def trailing_metadata(self) -> Any:
        return EMPTY

    async def code(self) -> grpc.StatusCode:
        return self._status.code

    async def details(self) -> str:
        return self._status.details

    async def debug_error_string(self) -> str:
        return self._status.details

    async def read(self) -> Any:
        raise self.error()

    def __await__(self) -> Generator[Any, None, Any]:
        raise self.error()
        yield  # makes this a generator


class End:
    """What is done when a delivered call is over. gRPC holds it until then, so it does not hold the caller's view of the call:
    a stream that its caller forgets must not live on in its own callback.
    """

    def __init__(self, channel: MeshAioChannel, call: Call, line: Line) -> None:
        self.gone = False
        self._channel = channel
        self._call = call
        self._line: Line | None = line
        self._task: asyncio.Task[None] | None = None

    def __call__(self, inner: Any) -> None:
        self._task = asyncio.get_running_loop().create_task(self.tell(inner))

    async def tell(self, inner: Any, code: grpc.StatusCode | None = None) -> None:
        """Only the first time counts.

        Args:
            code: of the call, if it is known.
        """
        line, self._line = self._line, None
        if line is None:
            return
        self._channel.release(line)
        if code is None:
            code = await inner.code()
        if self.gone and code is grpc.StatusCode.CANCELLED:
            self._call.abandoned()
        else:
            words = "" if code is grpc.StatusCode.OK else await inner.details()
            self._call.ended(code, flags=self._call.past(code, words or ""))


class Settled:
    """What a call came to, once it did: gRPC's call, or what stands in its place.

    As a future that many wait for and each of them may be cancelled; `asyncio.shield` would cost a turn of the loop more.

    Attributes:
        value: None until then.
    """

    __slots__ = ("_loop", "_waiters", "value")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.value: Any = None
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []

    def set(self, value: Any) -> None:
        """This is it. Only the first time counts."""
        if self.value is not None:
            return
        self.value = value
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def reached(self) -> asyncio.Future[None]:
        """Done once there is a value; for one waiter."""
        waiter = self._loop.create_future()
        if self.value is None:
            self._waiters.append(waiter)
        else:
            waiter.set_result(None)
        return waiter
