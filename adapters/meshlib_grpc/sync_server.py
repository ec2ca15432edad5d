"""The request's side of a blocking server: context, deadline, peer, admission, telemetry around each handler.

A handler runs in one of the server's threads, and so does everything here; the event is told when gRPC says that the call is
over, from the server's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

import meshlib
from meshlib.errors import IdentityError
from meshlib.runtime.admission import admit_sync, answer
from meshlib.runtime.mesh import Mesh

from ._arrival import Arrival
from ._call import Tally
from ._context import Context

Behaviour = Callable[..., Any]


class MeshInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no type information
    """See `meshlib_grpc.server_interceptor`."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        self._mesh = mesh

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The application's handler, in the mesh."""
        mesh = self._mesh = self._mesh or meshlib.default()
        handler = continuation(handler_call_details)
        if not mesh.settings.enabled:
            return handler
        if handler is None:
            handler = grpc.stream_stream_rpc_method_handler(_unimplemented)
        return Wrapped(mesh, handler_call_details.method, handler).handler(Context, _behaviour)


def _unimplemented(requests: Iterator[Any], context: Any) -> Any:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class Wrapped:
    """One call's handler.

    Args:
        handler: the application's `grpc.RpcMethodHandler`.
    """

    def __init__(self, mesh: Mesh, method: str, handler: Any) -> None:
        self._mesh = mesh
        self._method = method
        self._handler = handler
        self._received, self._sent = Tally(), Tally()

    @property
    def kind(self) -> str:
        """The name of the handler's attribute that holds the application's function."""
        streams = self._handler.request_streaming, self._handler.response_streaming
        return "_".join("stream" if stream else "unary" for stream in streams)

    def handler(self, view: type[Context], wrap: Callable[[Wrapped, Behaviour, type[Context]], Behaviour]) -> Any:
        """A handler that gRPC takes in place of the application's."""
        make = getattr(grpc, f"{self.kind}_rpc_method_handler")
        behaviour = wrap(self, getattr(self._handler, self.kind), view)
        return make(behaviour, self._deserialize, self._serialize)

    def arrival(self, context: Any) -> Arrival:
        """The call begins."""
        arrival = Arrival(self._mesh, self._method, context)
        arrival.received, arrival.sent = self._received, self._sent
        return arrival

    @property
    def streams_responses(self) -> bool:
        """Whether the function gives an iterator."""
        return bool(self._handler.response_streaming)

    def _deserialize(self, data: bytes) -> Any:
        decode = self._handler.request_deserializer
        self._received.add(data)
        return data if decode is None else decode(data)

    def _serialize(self, message: Any) -> bytes:
        encode = self._handler.response_serializer
        return self._sent.add(message if encode is None else encode(message))


def _behaviour(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    """What a thread of the server runs."""
    if getattr(function, "experimental_non_blocking", False):
        made = _non_blocking(wrapped, function, view)
    elif wrapped.streams_responses:
        made = _streaming(wrapped, function, view)
    else:
        made = _unary(wrapped, function, view)
    for name in ("experimental_non_blocking", "experimental_thread_pool"):  # marks that gRPC looks for
        if hasattr(function, name):
            setattr(made, name, getattr(function, name))
    return made


def _unary(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    def behaviour(request: Any, context: Any) -> Any:
        with begun(wrapped, context) as arrival:
            enter(arrival, context)
            return function(request, view(context, arrival))

    return behaviour


def _streaming(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    def behaviour(request: Any, context: Any) -> Iterator[Any]:
        with begun(wrapped, context) as arrival:
            enter(arrival, context)
            yield from function(request, view(context, arrival))

    return behaviour


def _non_blocking(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    def behaviour(request: Any, context: Any, send: Callable[[Any], None]) -> None:
        with begun(wrapped, context) as arrival:
            enter(arrival, context)
            function(request, view(context, arrival), send)

    return behaviour


def begun(wrapped: Wrapped, context: Any) -> Arrival:
    """The call, from its first moment. Aborts one whose client is gone: nobody waits, and nobody can say who asked."""
    try:
        arrival = wrapped.arrival(context)
    except IdentityError as error:
        context.abort(grpc.StatusCode.CANCELLED, str(error))
        raise
    if context.add_callback(arrival.end) is False:
        with arrival:
            arrival.end(cancelled=True)
            context.abort(grpc.StatusCode.CANCELLED, "the client is gone")
    return arrival


def enter(arrival: Arrival, context: Any) -> None:
    """Abort the call unless it may enter; raises then."""
    denied = arrival.decided(admit_sync(arrival.mesh.inbound, arrival.visit, partial(answer, arrival.mesh)))
    if denied is not None:
        context.set_trailing_metadata(denied.headers)
        context.abort(arrival.code, denied.words)
