"""Keeps an xDS-enabled grpcio server alive: no answer of it consists of trailers only.

Since 1.84 (seen in 1.84.1, 1.85.0 and 1.85.1, not in 1.66 to 1.83) grpcio's xDS-enabled server aborts the whole process
(`pipe.h: Check failed: has_value()`) when a call ends before its initial metadata was sent: on `context.abort`, on an error of
the application, on a request that cannot be read, on the name of a method that does not exist. Anybody who can connect could
end the process. So every such end is preceded by the initial metadata here, in a message of its own.

The price: for gRPC's clients that commits the call, so they do not retry what these servers answer. Only releases that need it
pay it. grpcio rejects calls above `maximum_concurrent_rpcs` where no interceptor sees them, so that limit cannot be offered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc

FIRST_BROKEN = (1, 84)
"""grpcio's release; no later one is known to be repaired."""

Behaviour = Callable[..., Any]


def needed(version: str) -> bool:
    """Whether a release of grpcio, such as `1.85.1`, dies of trailers only."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major, minor) >= FIRST_BROKEN


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]  # grpcio has no type information
    """To be the first interceptor: everything that other interceptors and handlers do happens inside it."""

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler that the others give, guarded; one that ends the call if they give none or fail."""
        try:
            handler = continuation(handler_call_details)
        except Exception as error:  # grpcio would answer any error of an interceptor with trailers only
            return _ending(error)
        return _ending(None) if handler is None else _guarded(handler)


def _ending(error: Exception | None) -> Any:
    """A handler for any kind of call that ends it as grpcio would: the method is unknown, or looking for it failed."""

    def end(_: Any, context: Any) -> Iterator[bytes]:
        with _never_trailers_only(context):
            if error is not None:
                raise error
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        yield from ()

    return grpc.stream_stream_rpc_method_handler(end)


def _guarded(handler: Any) -> Any:
    """The handler on bytes, because grpcio answers what it cannot (de)serialize with trailers only as well."""
    behaviour = _behaviour(handler)
    read = _each_read if handler.request_streaming else _read
    if not handler.response_streaming:
        guarded = _one_response(behaviour, read, handler)
    elif getattr(behaviour, "experimental_non_blocking", False):
        guarded = _called_back(behaviour, read, handler)
    else:
        guarded = _many_responses(behaviour, read, handler)
    for name in ("experimental_non_blocking", "experimental_thread_pool"):
        if hasattr(behaviour, name):
            setattr(guarded, name, getattr(behaviour, name))
    return _FACTORIES[handler.request_streaming, handler.response_streaming](guarded)


_FACTORIES = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _behaviour(handler: Any) -> Behaviour:
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None
    return found  # type: ignore[no-any-return]  # grpcio has no type information


def _one_response(behaviour: Behaviour, read: Behaviour, handler: Any) -> Behaviour:
    def answer(raw: Any, context: Any) -> bytes:
        with _never_trailers_only(context, ends=False):
            response = behaviour(read(raw, handler.request_deserializer, context), context)
            return _written(response, handler.response_serializer, context)

    return answer


def _many_responses(behaviour: Behaviour, read: Behaviour, handler: Any) -> Behaviour:
    def answer(raw: Any, context: Any) -> Iterator[bytes]:
        with _never_trailers_only(context):
            for response in behaviour(read(raw, handler.request_deserializer, context), context):
                yield _written(response, handler.response_serializer, context)

    return answer


def _called_back(behaviour: Behaviour, read: Behaviour, handler: Any) -> Behaviour:
    """grpcio's experimental form, of the health service for example: responses are handed to a callback, None is the end."""

    def answer(raw: Any, context: Any, send: Callable[[Any], None]) -> None:
        def guarded(response: Any) -> None:
            if response is None:
                _open(context)
            send(None if response is None else _written(response, handler.response_serializer, context))

        with _never_trailers_only(context, ends=False):
            behaviour(read(raw, handler.request_deserializer, context), context, guarded)

    return answer


@contextlib.contextmanager
def _never_trailers_only(context: Any, *, ends: bool = True) -> Iterator[None]:
    """Send the initial metadata before the call ends.

    Args:
        ends: the call also ends without an error; otherwise a response follows, which brings them along.
    """
    try:
        yield
    except BaseException:
        _open(context)
        raise
    if ends:
        _open(context)


def _open(context: Any) -> None:
    # Sent already, or the client is gone: grpcio has no other way to ask.
    with contextlib.suppress(Exception):
        context.send_initial_metadata(())


def _read(raw: bytes, deserialize: Callable[[bytes], Any] | None, context: Any) -> Any:
    if deserialize is None:
        return raw
    try:
        return deserialize(raw)
    except Exception:  # whatever the deserializer raises: the client's bytes are wrong
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def _each_read(requests: Iterator[bytes], deserialize: Callable[[bytes], Any] | None, context: Any) -> Iterator[Any]:
    for raw in requests:
        yield _read(raw, deserialize, context)


def _written(response: Any, serialize: Callable[[Any], bytes] | None, context: Any) -> bytes:
    try:
        written = response if serialize is None else serialize(response)
    except Exception:  # whatever the serializer raises: the application's response is wrong
        written = None
    if written is None:
        # As grpcio: what the application has said about the call counts before our own words.
        context.abort(context.code() or grpc.StatusCode.INTERNAL, context.details() or "Failed to serialize response!")
    return written  # type: ignore[return-value]  # abort raises
