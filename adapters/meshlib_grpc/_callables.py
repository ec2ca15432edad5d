"""What a blocking channel's methods return: the four kinds of calls, two by two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from ._active import ActiveCall, ActiveStream
from ._blocking import Blocking
from ._call import Codec, Given
from ._request import Request

if TYPE_CHECKING:
    from ._channel import MeshChannel


class _Callable:
    """What both kinds of callables share."""

    def __init__(self, channel: MeshChannel, codec: Codec) -> None:
        self._channel = channel
        self._codec = codec

    def _direct(self) -> Any:
        make = getattr(self._channel.direct(), self._codec.kind)
        return make(self._codec.method, self._codec.serialize, self._codec.deserialize)

    def _request(self, request: Any, given: Given) -> Request:
        return Request(self._channel, self._codec, request, given)


class UnaryRequest(_Callable, grpc.UnaryUnaryMultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[misc]
    """Calls with one response: `UnaryUnaryMultiCallable`, and `StreamUnaryMultiCallable` likewise."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """The response. Raises grpc.RpcError."""
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, grpc.Call]:
        """The response and its call. Raises grpc.RpcError."""
        given = Given(timeout, metadata, credentials, wait_for_ready, compression)
        destination = self._channel.destination()
        if destination is None:
            answered: tuple[Any, grpc.Call] = self._direct().with_call(request, *given)
            return answered
        return Blocking(self._request(request, given)).run(destination)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """The call, which is a future of the response."""
        given = Given(timeout, metadata, credentials, wait_for_ready, compression)
        destination = self._channel.destination()
        if destination is None:
            return self._direct().future(request, *given)
        return ActiveCall(self._request(request, given)).begin(destination)


class StreamResponse(_Callable, grpc.UnaryStreamMultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[misc]
    """Calls with a stream of responses: `UnaryStreamMultiCallable`, and `StreamStreamMultiCallable` likewise."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """The call, which is an iterator of responses."""
        given = Given(timeout, metadata, credentials, wait_for_ready, compression)
        destination = self._channel.destination()
        if destination is None:
            return self._direct()(request, *given)
        return ActiveStream(self._request(request, given)).begin(destination)
