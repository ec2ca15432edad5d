"""A gRPC server with manners and without, in a thread of its own, for either API; messages are bytes.

Methods of `/test.Echo/`: `One`, `Many`, `Collect`, `Chat` are the four kinds. The request says how to behave, see `_ORDERS`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

import meshlib
import meshlib_grpc
import meshlib_grpc.aio
from meshlib.telemetry import deadline
from tests.support.mesh import LocalMesh

SERVICE = "test.Echo"


class Failed(Exception):
    """What a broken application raises."""


class Echo:
    """Serves until the end of the `with`.

    Args:
        name: what the answers tell.
        mesh: whose server it is; None: a gRPC server of no mesh.
        api: `sync` or `aio`.
    """

    def __init__(self, name: str = "v1", mesh: LocalMesh | None = None, api: str = "sync") -> None:
        self.name = name
        self.mesh = mesh
        self.api = api
        self.port = 0
        self.calls: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.server: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Echo:
        if self.api == "sync":
            self._serve()
        else:
            started = threading.Event()
            self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_aio(started)), daemon=True)
            self._thread.start()
            started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(None)
        if self._thread is not None and self.loop is not None:
            self.loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)

    def stop(self, grace: float | None) -> None:
        """Stop the server and wait until it has."""
        server, self.server = self.server, None
        if server is None:
            return
        if self.loop is None:
            server.stop(grace).wait(10)
        else:
            asyncio.run_coroutine_threadsafe(server.stop(grace), self.loop).result(10)

    def _serve(self) -> None:
        ours = [meshlib_grpc.server_interceptor(self.mesh)] if self.mesh else []  # type: ignore[arg-type]
        self.server = grpc.server(ThreadPoolExecutor(16), handlers=[_Sync(self)], interceptors=ours)
        if self.mesh:
            self.port = meshlib_grpc.add_port(self.server, "127.0.0.1:0", mesh=self.mesh)  # type: ignore[arg-type]
        else:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    async def _serve_aio(self, started: threading.Event) -> None:
        self.loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        ours = [meshlib_grpc.aio.server_interceptor(self.mesh)] if self.mesh else []  # type: ignore[arg-type]
        self.server = grpc.aio.server(handlers=[_Aio(self)], interceptors=ours)
        if self.mesh:
            self.port = meshlib_grpc.aio.add_port(self.server, "127.0.0.1:0", mesh=self.mesh)  # type: ignore[arg-type]
        else:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        started.set()
        await self._stopped.wait()

    def told(self, request: bytes, context: Any) -> bytes:
        """Everything a handler knows, as JSON."""
        until, current = deadline.current(), meshlib.context()
        left = None if until is None else until - time.monotonic()
        known = {
            "name": self.name,
            "request": request.decode(),
            "claims": meshlib.claims(),
            "metadata": {k: v if isinstance(v, str) else v.hex() for k, v in context.invocation_metadata()},
            "peer": meshlib.peer().spiffe_id,
            "address": context.peer(),
            "trace": current.trace_id if current else "",
            "left": left,
            "remaining": context.time_remaining(),
        }
        self.calls.append(known)
        return json.dumps(known).encode()

    def order(self, request: bytes) -> tuple[str, dict[str, str]]:
        """The order in a request, `abort code=UNAVAILABLE times=2`, and how often it came is counted."""
        self.entered.set()
        word, *pairs = request.decode().split(" ")
        self.seen[word] += 1
        options = dict(pair.split("=", 1) for pair in pairs)
        if self.seen[word] > int(options.get("times", "1000000")):
            return "echo", options
        return word, options


def words(options: dict[str, str]) -> str:
    return options.get("words", "told").replace("_", " ")


class _Sync(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    def service(self, details: Any) -> Any:
        service, _, method = details.method.removeprefix("/").partition("/")
        return {
            "One": grpc.unary_unary_rpc_method_handler(self.one),
            "Many": grpc.unary_stream_rpc_method_handler(self.many),
            "Collect": grpc.stream_unary_rpc_method_handler(lambda requests, context: self.one(b",".join(requests), context)),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }.get(method if service == SERVICE else "")

    def when_over(self, context: Any) -> None:
        """Say so when the call is over, also if it is already."""
        if not context.add_callback(self.echo.cancelled.set):
            self.echo.cancelled.set()

    def behave(self, request: bytes, context: Any) -> None:
        word, options = self.echo.order(request)
        if word in ("slow", "endless"):
            self.when_over(context)
        if word == "slow":
            self.echo.cancelled.wait(float(options["seconds"]))
        elif word == "head":
            context.send_initial_metadata(() if "empty" in options else (("x-head", "early"),))
            time.sleep(float(options.get("seconds", "0")))
            context.abort(grpc.StatusCode[options["code"]], words(options))
        elif word == "abort":
            context.abort(grpc.StatusCode[options["code"]], words(options))
        elif word == "raise":
            raise Failed("the application is broken")

    def one(self, request: bytes, context: Any) -> bytes:
        self.behave(request, context)
        context.set_trailing_metadata((("x-tail", "late"),))
        return self.echo.told(request, context)

    def many(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.behave(request, context)
        for number in range(3):
            yield self.echo.told(request, context)
            if request.startswith(b"broken") and number == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            if request.startswith(b"endless"):
                self.echo.cancelled.wait(20)

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            self.behave(request, context)
            yield self.echo.told(request, context)


class _Aio(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    def service(self, details: Any) -> Any:
        service, _, method = details.method.removeprefix("/").partition("/")
        return {
            "One": grpc.unary_unary_rpc_method_handler(self.one),
            "Many": grpc.unary_stream_rpc_method_handler(self.many),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Plain": grpc.unary_unary_rpc_method_handler(self.echo.told),
        }.get(method if service == SERVICE else "")

    async def behave(self, request: bytes, context: Any) -> None:
        word, options = self.echo.order(request)
        if word in ("slow", "endless"):
            context.add_done_callback(lambda _: self.echo.cancelled.set())
        if word == "slow":
            await asyncio.sleep(float(options["seconds"]))
        elif word == "head":
            await context.send_initial_metadata(() if "empty" in options else (("x-head", "early"),))
            await asyncio.sleep(float(options.get("seconds", "0")))
            await context.abort(grpc.StatusCode[options["code"]], words(options))
        elif word == "abort":
            await context.abort(grpc.StatusCode[options["code"]], words(options))
        elif word == "raise":
            raise Failed("the application is broken")

    async def one(self, request: bytes, context: Any) -> bytes:
        await self.behave(request, context)
        context.set_trailing_metadata((("x-tail", "late"),))
        return self.echo.told(request, context)

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self.behave(request, context)
        for number in range(3):
            yield self.echo.told(request, context)
            if request.startswith(b"broken") and number == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            if request.startswith(b"endless"):
                await asyncio.sleep(20)

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self.one(b",".join([request async for request in requests]), context)

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            await self.behave(request, context)
            yield self.echo.told(request, context)
