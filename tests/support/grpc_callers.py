"""The two gRPC APIs of engine 1 behind one asynchronous face, so that one contract tests both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

import meshlib_grpc
import meshlib_grpc.aio
from tests.support.mesh import LocalMesh

KINDS = {"One": "unary_unary", "Many": "unary_stream", "Collect": "stream_unary", "Chat": "stream_stream"}
"""Methods of `/test.Echo/` -> methods of channels."""


class Caller:
    """Calls `/test.Echo/...` of reviews:9080."""

    api = ""

    def open(self, mesh: LocalMesh, target: str = "reviews:9080", **options: Any) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def one(self, request: bytes = b"echo", **options: Any) -> dict[str, Any]:
        """unary-unary"""
        raise NotImplementedError

    async def many(self, request: bytes = b"echo", **options: Any) -> list[dict[str, Any]]:
        """unary-stream"""
        raise NotImplementedError

    async def collect(self, requests: Iterable[bytes], **options: Any) -> dict[str, Any]:
        """stream-unary"""
        raise NotImplementedError

    async def chat(self, requests: Iterable[bytes], **options: Any) -> list[dict[str, Any]]:
        """stream-stream"""
        raise NotImplementedError

    async def begin(self, kind: str, request: bytes, **options: Any) -> Running:
        """A call that is left running, of any kind; a stream of requests consists of this one."""
        raise NotImplementedError


class Running:
    """A call under way."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def next(self) -> dict[str, Any]:
        """The next response of a stream."""
        message = await asyncio.to_thread(next, self.call)
        return dict(json.loads(message))

    async def code(self) -> grpc.StatusCode:
        """How it ended."""
        return await asyncio.to_thread(self.call.code)

    async def initial_metadata(self) -> dict[str, Any]:
        """Of the call."""
        return dict(await asyncio.to_thread(self.call.initial_metadata))

    async def trailing_metadata(self) -> dict[str, Any]:
        """Of the call."""
        return dict(await asyncio.to_thread(self.call.trailing_metadata))

    def cancel(self) -> None:
        """Give up."""
        self.call.cancel()


class AioRunning(Running):
    async def next(self) -> dict[str, Any]:
        return dict(json.loads(await self.call.read()))

    async def code(self) -> grpc.StatusCode:
        return await self.call.code()

    async def initial_metadata(self) -> dict[str, Any]:
        return dict(list(await self.call.initial_metadata()))

    async def trailing_metadata(self) -> dict[str, Any]:
        return dict(list(await self.call.trailing_metadata()))


class SyncCaller(Caller):
    api = "sync"

    def open(self, mesh: LocalMesh, target: str = "reviews:9080", **options: Any) -> None:
        self.channel = meshlib_grpc.channel(target, mesh=mesh, **options)  # type: ignore[arg-type]

    async def close(self) -> None:
        await asyncio.to_thread(self.channel.close)

    async def one(self, request: bytes = b"echo", **options: Any) -> dict[str, Any]:
        return dict(json.loads(await asyncio.to_thread(self.channel.unary_unary("/test.Echo/One"), request, **options)))

    async def many(self, request: bytes = b"echo", **options: Any) -> list[dict[str, Any]]:
        make = self.channel.unary_stream("/test.Echo/Many")
        return [json.loads(one) for one in await asyncio.to_thread(lambda: list(make(request, **options)))]

    async def collect(self, requests: Iterable[bytes], **options: Any) -> dict[str, Any]:
        make = self.channel.stream_unary("/test.Echo/Collect")
        return dict(json.loads(await asyncio.to_thread(make, iter(requests), **options)))

    async def chat(self, requests: Iterable[bytes], **options: Any) -> list[dict[str, Any]]:
        make = self.channel.stream_stream("/test.Echo/Chat")
        return [json.loads(one) for one in await asyncio.to_thread(lambda: list(make(iter(requests), **options)))]

    async def begin(self, kind: str, request: bytes, **options: Any) -> Running:
        callable_ = getattr(self.channel, KINDS[kind])(f"/test.Echo/{kind}")
        start = callable_.future if kind in ("One", "Collect") else callable_
        given: Any = request if kind in ("One", "Many") else iter([request])
        return Running(await asyncio.to_thread(start, given, **options))


class AioCaller(Caller):
    api = "aio"

    def open(self, mesh: LocalMesh, target: str = "reviews:9080", **options: Any) -> None:
        self.channel = meshlib_grpc.aio.channel(target, mesh=mesh, **options)  # type: ignore[arg-type]

    async def close(self) -> None:
        await self.channel.close()

    async def one(self, request: bytes = b"echo", **options: Any) -> dict[str, Any]:
        return dict(json.loads(await self.channel.unary_unary("/test.Echo/One")(request, **options)))

    async def many(self, request: bytes = b"echo", **options: Any) -> list[dict[str, Any]]:
        call = self.channel.unary_stream("/test.Echo/Many")(request, **options)
        return [json.loads(one) async for one in call]

    async def collect(self, requests: Iterable[bytes], **options: Any) -> dict[str, Any]:
        return dict(json.loads(await self.channel.stream_unary("/test.Echo/Collect")(iter(requests), **options)))

    async def chat(self, requests: Iterable[bytes], **options: Any) -> list[dict[str, Any]]:
        call = self.channel.stream_stream("/test.Echo/Chat")(iter(requests), **options)
        return [json.loads(one) async for one in call]

    async def begin(self, kind: str, request: bytes, **options: Any) -> Running:
        given: Any = request if kind in ("One", "Many") else iter([request])
        return AioRunning(getattr(self.channel, KINDS[kind])(f"/test.Echo/{kind}")(given, **options))
