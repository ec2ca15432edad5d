"""An unmodified gRPC client: calls TARGET in all four kinds, asks health and reflection. `grpccall.py sync|aio TARGET`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

API, TARGET = sys.argv[1:3]
LIST = reflection_pb2.ServerReflectionRequest(list_services="")


def names(answer: Any) -> list[str]:
    """Of services, from reflection."""
    return sorted(service.name for service in answer.list_services_response.service)


def blocking() -> dict[str, Any]:
    """With grpc."""
    with grpc.insecure_channel(TARGET) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        chat = channel.stream_stream("/test.Echo/Chat")(iter([b"a", b"b"]), timeout=20)
        answers = [
            channel.unary_unary("/test.Echo/One")(b"hello", timeout=20),
            channel.unary_unary("/test.Echo/One").future(b"later", timeout=20).result(),
            *channel.unary_stream("/test.Echo/Many")(b"many", timeout=20),
            channel.stream_unary("/test.Echo/Collect")(iter([b"1", b"2"]), timeout=20),
            *chat,
        ]
        checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([LIST]), timeout=20)
        return {
            "answers": [json.loads(answer) for answer in answers],
            "health": checked.status,
            "names": names(next(reflected)),
        }


async def asynchronous() -> dict[str, Any]:
    """With grpc.aio."""
    async with grpc.aio.insecure_channel(TARGET) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        chat = channel.stream_stream("/test.Echo/Chat")(timeout=20)
        answers = [
            await channel.unary_unary("/test.Echo/One")(b"hello", timeout=20),
            *[answer async for answer in channel.unary_stream("/test.Echo/Many")(b"many", timeout=20)],
            await channel.stream_unary("/test.Echo/Collect")(iter([b"1", b"2"]), timeout=20),
        ]
        for request in (b"a", b"b"):
            await chat.write(request)
            answers.append(await chat.read())
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        checked = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([LIST]), timeout=20)
        listed = names(await reflected.read())
        return {"answers": [json.loads(answer) for answer in answers], "health": checked.status, "names": listed}


print(json.dumps(blocking() if API == "sync" else asyncio.run(asynchronous())))
