"""The request's side of an asyncio server, as `sync_server.py`. Plain functions among its handlers run in threads, as ever."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

import meshlib
from meshlib.errors import IdentityError
from meshlib.runtime.admission import admit_async, answer_async
from meshlib.runtime.mesh import Mesh

from ._arrival import Arrival
from ._context import AioContext, Context
from .sync_server import Behaviour, Wrapped, _behaviour


class MeshAioInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no type information
    """See `meshlib_grpc.aio.server_interceptor`."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        self._mesh = mesh

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """The application's handler, in the mesh."""
        mesh = self._mesh = self._mesh or meshlib.default()
        handler = await continuation(handler_call_details)
        if not mesh.settings.enabled:
            return handler
        if handler is None:
            handler = grpc.stream_stream_rpc_method_handler(_unimplemented)
        wrapped = Wrapped(mesh, handler_call_details.method, handler)
        function = getattr(handler, wrapped.kind)
        if inspect.isasyncgenfunction(function):
            return wrapped.handler(AioContext, _generator)
        if inspect.iscoroutinefunction(function):
            return wrapped.handler(AioContext, _coroutine)
        return wrapped.handler(Context, _behaviour)


async def _unimplemented(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def _coroutine(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    async def behaviour(request: Any, context: Any) -> Any:
        arrival = await _begun(wrapped, context)
        with arrival:
            await _enter(arrival, context)
            return await function(request, view(context, arrival))

    return behaviour


def _generator(wrapped: Wrapped, function: Behaviour, view: type[Context]) -> Behaviour:
    async def behaviour(request: Any, context: Any) -> AsyncIterator[Any]:
        arrival = await _begun(wrapped, context)
        with arrival:
            await _enter(arrival, context)
            responses = function(request, view(context, arrival))
            try:
                async for message in responses:
                    yield message
            finally:
                await responses.aclose()

    return behaviour


async def _begun(wrapped: Wrapped, context: Any) -> Arrival:
    try:
        arrival = wrapped.arrival(context)
    except IdentityError as error:
        await context.abort(grpc.StatusCode.CANCELLED, str(error))
        raise
    context.add_done_callback(lambda _: arrival.end())
    return arrival


async def _enter(arrival: Arrival, context: Any) -> None:
    denied = arrival.decided(await admit_async(arrival.mesh.inbound, arrival.visit, partial(answer_async, arrival.mesh)))
    if denied is not None:
        await context.abort(arrival.code, denied.words, denied.headers)
