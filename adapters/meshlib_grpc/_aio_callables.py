"""What an asyncio channel's methods return, with and without interceptors of the application.

gRPC's own machinery runs the application's interceptors: a channel of its own that never connects holds them, and ours after
them, which does not go on to that channel but makes the call in the mesh. An interceptor is not told how messages become
bytes; a context variable carries the codec from the callable to ours, over the task that gRPC makes in between.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlib.config.snapshot import Absent

from ._aio_calls import AioCall
from ._aio_kinds import call_class
from ._call import Codec, Given

if TYPE_CHECKING:
    from .aio_channel import MeshAioChannel

_codec: ContextVar[Codec] = ContextVar("meshlib_grpc_codec")


class AioCallable:
    """Makes calls of one method: a `grpc.aio` multi-callable of any kind."""

    def __init__(self, channel: MeshAioChannel, codec: Codec) -> None:
        self._channel = channel
        self._codec = codec

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        *,
        request_iterator: Any = None,
    ) -> Any:
        """The call. It has begun."""
        request = request_iterator if request is None else request
        given = Given(timeout, metadata, credentials, wait_for_ready, compression)
        return start(self._channel, self._codec, request, given)


for _kind in (
    grpc.aio.UnaryUnaryMultiCallable,
    grpc.aio.UnaryStreamMultiCallable,
    grpc.aio.StreamUnaryMultiCallable,
    grpc.aio.StreamStreamMultiCallable,
):
    _kind.register(AioCallable)


class Intercepted:
    """The same by way of the application's interceptors.

    Args:
        through: gRPC's own callable, whose last interceptor is ours.
    """

    def __init__(self, through: Any, codec: Codec) -> None:
        self._through = through
        self._codec = codec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call. It has begun."""
        token = _codec.set(self._codec)
        try:
            return self._through(*args, **kwargs)  # its task keeps this context
        finally:
            _codec.reset(token)


def start(channel: MeshAioChannel, codec: Codec, request: Any, given: Given) -> Any:
    """Begin a call."""
    if isinstance(channel.known(), Absent):
        return outside(channel, codec, request, given)
    call: AioCall = call_class(codec)(channel, codec, request, given)
    call.begin()
    return call


def outside(channel: MeshAioChannel, codec: Codec, request: Any, given: Given) -> Any:
    """gRPC's own call."""
    make = getattr(channel.direct(), codec.kind)
    return make(codec.method, codec.serialize, codec.deserialize)(request, **given._asdict())


def last_interceptors(channel: MeshAioChannel) -> list[Any]:
    """Ours, one for each kind of calls, because gRPC takes an interceptor for one kind only."""

    async def make(continuation: Any, details: Any, request: Any) -> Any:
        codec = _codec.get()
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        given = Given(details.timeout, details.metadata, details.credentials, details.wait_for_ready)
        return start(channel, codec._replace(method=method), request, given)

    class UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no type information
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await make(continuation, details, request)

    class UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc has no type information
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await make(continuation, details, request)

    class StreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # grpc has no type information
        async def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await make(continuation, details, request)

    class StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc has no type information
        async def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await make(continuation, details, request)

    return [UnaryUnary(), UnaryStream(), StreamUnary(), StreamStream()]
