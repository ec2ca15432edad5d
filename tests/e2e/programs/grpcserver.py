"""An unmodified gRPC server: echo in all four kinds, health and reflection. `grpcserver.py sync|aio ADDRESS NAME`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

SERVICE = "test.Echo"
API, ADDRESS, NAME = sys.argv[1:4]


def told(request: bytes, context: Any) -> bytes:
    """Who answers, who asked, and what."""
    metadata = dict(context.invocation_metadata())
    return json.dumps({"name": NAME, "request": request.decode(), "client": metadata.get("x-forwarded-client-cert")}).encode()


def add(server: Any, handlers: dict[str, Any], checked: Any) -> None:
    """Echo, health and reflection."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(checked, server)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    server.add_insecure_port(ADDRESS)


def blocking() -> None:
    """With grpc."""

    def many(request: bytes, context: Any) -> Iterator[bytes]:
        return (told(request, context) for _ in range(3))

    def collect(requests: Iterator[bytes], context: Any) -> bytes:
        return told(b",".join(requests), context)

    def chat(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        return (told(request, context) for request in requests)

    server = grpc.server(ThreadPoolExecutor(8))
    add(server, kinds(told, many, collect, chat), health.HealthServicer())
    server.start()
    server.wait_for_termination()


async def asynchronous() -> None:
    """With grpc.aio."""

    async def one(request: bytes, context: Any) -> bytes:
        return told(request, context)

    async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield told(request, context)

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return told(b",".join([request async for request in requests]), context)

    async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield told(request, context)

    server = grpc.aio.server()
    add(server, kinds(one, many, collect, chat), health.aio.HealthServicer())
    await server.start()
    await server.wait_for_termination()


def kinds(one: Any, many: Any, collect: Any, chat: Any) -> dict[str, Any]:
    """The handlers."""
    return {
        "One": grpc.unary_unary_rpc_method_handler(one),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }


if API == "sync":
    blocking()
else:
    asyncio.run(asynchronous())
