"""What must not go wrong however long, large, slow or short-lived: both APIs over mutual TLS."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshlib_grpc
import meshlib_grpc.aio
from meshlib.config.model import RetryPolicy
from meshlib.errors import SettingsError
from tests.adapters.grpc.conftest import Scene
from tests.adapters.grpc.test_calls import refused
from tests.adapters.grpc.test_connections import active, until
from tests.support.grpc_callers import KINDS, SyncCaller
from tests.support.grpc_echo import Echo
from tests.support.mesh import ISTIO_RETRY, LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_any_kind(scene: Scene, kind: str) -> None:
    """A call that its caller gives up ends on the server, too, whatever its kind; its endpoint is free again."""
    call = await scene.caller.begin(kind, b"slow seconds=20")
    assert await asyncio.to_thread(scene.echo.entered.wait, 5)
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await asyncio.to_thread(scene.echo.cancelled.wait, 5)
    await until(lambda: active(scene) == 0)
    assert await scene.flags(1) == ["DC"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_server_gives_up_any_kind(scene: Scene, kind: str) -> None:
    """A server that ends its calls ends them for their callers, whatever the kind."""
    scene.configure(retry=None)
    call = await scene.caller.begin(kind, b"slow seconds=20")
    assert await asyncio.to_thread(scene.echo.entered.wait, 5)
    await asyncio.to_thread(scene.echo.stop, None)
    assert await asyncio.wait_for(call.code(), 10) is not grpc.StatusCode.OK
    await until(lambda: active(scene) == 0)


async def test_closing_a_channel_ends_a_blocking_call(authority: Authority, echo: Echo) -> None:
    """It is cancelled and not tried again; nothing is made anew on a closed channel."""
    mesh, caller = LocalMesh(authority), SyncCaller()
    mesh.know(destination("reviews:9080", {"v1": [endpoint(echo.port, tls=True)]}, sans=[spiffe("reviews")]))
    caller.open(mesh)
    call = asyncio.create_task(refused(caller.one(b"slow seconds=20")))
    assert await asyncio.to_thread(echo.entered.wait, 5)
    await caller.close()
    assert (await asyncio.wait_for(call, 10)).code() is grpc.StatusCode.CANCELLED  # type: ignore[attr-defined]
    await until(lambda: "meshlib-grpc" not in {thread.name for thread in threading.enumerate()})


async def test_questions_that_wait_for_answers(scene: Scene) -> None:
    """A try that is made again gets what was sent before, while the application waits for its answer to go on."""
    answered = threading.Event()

    def questions() -> Iterator[bytes]:
        yield b"abort code=UNAVAILABLE times=1"
        assert answered.wait(10)
        yield b"more"

    async def async_questions() -> AsyncIterator[bytes]:
        for question in questions():
            yield question
            while not answered.is_set():  # noqa: ASYNC110 (set by a thread in the other API)
                await asyncio.sleep(0.01)

    make = scene.caller.channel.stream_stream("/test.Echo/Chat")  # type: ignore[attr-defined]
    if scene.caller.api == "sync":
        call = make(questions(), timeout=20)
        await asyncio.to_thread(next, call)
        answered.set()
        assert len(await asyncio.to_thread(list, call)) == 1
    else:
        call = make(async_questions(), timeout=20)
        await call.read()
        answered.set()
        assert len([one async for one in call]) == 1


async def test_no_request_is_lost_between_tries(scene: Scene) -> None:
    """A try that is given up while the application makes the next request does not end the application's generator."""
    retry = RetryPolicy(frozenset({"reset"}), 9, per_try_timeout=0.3, backoff_base=0.001, backoff_max=0.002)
    scene.configure(retry=retry)

    def requests() -> Iterator[bytes]:
        yield b"a"
        time.sleep(0.5)
        yield from (b"b", b"c")

    async def async_requests() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0.5)
        yield b"b"
        yield b"c"

    make = scene.caller.channel.stream_unary("/test.Echo/Collect")  # type: ignore[attr-defined]
    if scene.caller.api == "sync":
        told = await asyncio.to_thread(make, requests(), timeout=20)
    else:
        told = await make(async_requests(), timeout=20)
    assert b'"request": "a,b,c"' in told


async def test_a_server_that_ends_first(scene: Scene) -> None:
    """A server may end a call whose requests have no end; they are asked for no more."""
    asked = 0

    def requests() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"abort code=NOT_FOUND"

    error = await asyncio.wait_for(refused(scene.caller.chat(requests())), 10)
    # grpc.aio by itself says INTERNAL, four times out of five, where it was about to send when the status came.
    codes = (
        {grpc.StatusCode.NOT_FOUND} if scene.caller.api == "sync" else {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL}
    )
    assert error.code() in codes
    await asyncio.sleep(0.1)
    before = asked
    await asyncio.sleep(0.2)
    assert asked == before


async def test_big_messages(scene: Scene) -> None:
    """Three megabytes go and come back."""
    size = 3_000_000
    assert len((await scene.caller.one(b"x" * size))["request"]) == size


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compression(scene: Scene, compression: grpc.Compression) -> None:
    """A call may be compressed, and so may all calls of a channel."""
    assert (await scene.caller.one(b"x" * 5000, compression=compression))["request"] == "x" * 5000
    caller = type(scene.caller)()
    caller.open(scene.mesh, compression=compression)
    assert (await caller.one(b"x" * 5000))["request"] == "x" * 5000
    await caller.close()


class Flood(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Sends without an end as fast as it is read."""

    def __init__(self) -> None:
        self.sent = 0

    def service(self, details: Any) -> Any:
        def flood(request: bytes, context: Any) -> Iterator[bytes]:
            while True:
                self.sent += 1
                yield bytes(65536)

        return grpc.unary_stream_rpc_method_handler(flood)


async def test_slow_readers(scene: Scene, authority: Authority) -> None:
    """Who reads nothing is sent no more than buffers hold: acceptor, bridge and gRPC hold their senders back."""
    flood, mesh = Flood(), LocalMesh(authority, "reviews")
    server = grpc.server(
        ThreadPoolExecutor(2),
        [flood],
        [meshlib_grpc.server_interceptor(mesh)],  # type: ignore[arg-type]
    )
    port = meshlib_grpc.add_port(server, "127.0.0.1:0", mesh=mesh)  # type: ignore[arg-type]
    server.start()
    scene.configure(endpoints={"v1": [endpoint(port, tls=True)]})
    call = scene.caller.channel.unary_stream("/test.Echo/Many")(b"")  # type: ignore[attr-defined]
    read: Callable[[], Any] = (lambda: asyncio.to_thread(next, call)) if scene.caller.api == "sync" else call.read
    await read()
    before = -1
    while before != flood.sent:
        before = flood.sent
        await asyncio.sleep(0.5)
    assert flood.sent * 65536 < 64_000_000
    for _ in range(before + 100):
        await read()
    assert flood.sent > before
    call.cancel()
    await asyncio.to_thread(server.stop(None).wait, 10)


async def test_short_calls_leave_nothing_behind(scene: Scene) -> None:
    """Hundreds of calls of every kind, good and bad: no thread, no descriptor, no object stays for each."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await scene.caller.one()
            await scene.caller.many()
            await scene.caller.collect([b"a"])
            await scene.caller.chat([b"a"])
            await refused(scene.caller.one(b"abort code=NOT_FOUND"))
            call = await scene.caller.begin("Many", b"echo")
            call.cancel()
            await call.code()
        scene.echo.calls.clear()
        scene.mesh.events.clear()
        assert scene.echo.mesh is not None
        scene.echo.mesh.events.clear()
        await asyncio.sleep(0.3)
        gc.collect()

    def held() -> tuple[int, int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    await calls(40)
    threads, descriptors, objects = held()
    await calls(120)
    after = held()
    assert after[0] <= threads + 5
    assert after[1] <= descriptors + 10
    assert after[2] <= objects + 720, "less than one object for each call"


async def test_a_client_that_left_before_its_turn(authority: Authority) -> None:
    """A call that waited for a thread while its client left never reaches the application."""
    mesh, echo = LocalMesh(authority, "reviews"), Echo("v1", LocalMesh(authority, "reviews"))
    from tests.support import grpc_echo

    server = grpc.server(
        ThreadPoolExecutor(1),
        [grpc_echo._Sync(echo)],
        [meshlib_grpc.server_interceptor(mesh)],  # type: ignore[arg-type]
    )
    port = meshlib_grpc.add_port(server, "127.0.0.1:0", mesh=mesh)  # type: ignore[arg-type]
    server.start()
    with grpc.insecure_channel(f"ipv4:127.0.0.1:{port}") as channel:
        one = channel.unary_unary("/test.Echo/One")
        slow = one.future(b"slow seconds=5")
        assert await asyncio.to_thread(echo.entered.wait, 5)
        queued = [channel.stream_unary("/test.Echo/Collect").future(iter([b"late"])), one.future(b"late")]
        await asyncio.sleep(0.3)
        for call in queued:
            call.cancel()
        await asyncio.sleep(0.3)
        echo.cancelled.set()
        await asyncio.to_thread(slow.result)
        await asyncio.to_thread(one, b"after")
    await asyncio.to_thread(server.stop(None).wait, 10)
    assert echo.seen["late"] == 0
    assert echo.seen["after"] == 1


@pytest.mark.parametrize("api", ["sync", "aio"])
async def test_a_server_withdraws_before_it_stops(authority: Authority, api: str) -> None:
    """It is taken off the lists first and serves until others had the time to hear of it."""
    mesh = LocalMesh(authority, "reviews")
    mesh.leaving = Future()
    with Echo("v1", mesh, api) as echo:
        port = echo.port
        stopping = asyncio.create_task(asyncio.to_thread(echo.stop, 5))
        await until(lambda: mesh.withdrawn == [port])
        with grpc.insecure_channel(f"ipv4:127.0.0.1:{port}") as channel:
            await asyncio.to_thread(channel.unary_unary("/test.Echo/One"), b"echo", timeout=5)
        assert (echo.seen["echo"], stopping.done()) == (1, False)
        mesh.leaving.set_result(None)
        await asyncio.wait_for(stopping, 10)


async def test_long_temporary_folders(authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sockets have short addresses; a TMPDIR that is too long for them is left alone."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    mesh, caller = LocalMesh(authority), SyncCaller()
    with Echo("v1", LocalMesh(authority, "reviews")) as echo:
        mesh.know(destination("reviews:9080", {"v1": [endpoint(echo.port, tls=True)]}, sans=[spiffe("reviews")]))
        caller.open(mesh)
        assert (await caller.one())["name"] == "v1"
        await caller.close()


def test_an_engine_that_does_not_exist() -> None:
    """Not taken for the default."""
    for make in (meshlib_grpc.channel, meshlib_grpc.aio.channel):
        with pytest.raises(SettingsError, match="engine='XDS' does not exist"):
            make("reviews:9080", engine="XDS")


def test_forking_with_a_channel() -> None:
    """A channel made before a fork works in every child, and in the parent, as under prefork servers."""
    program = """
import json, os, sys
from tests.support.grpc_echo import Echo
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe
import meshlib_grpc, grpc, meshlib_grpc.aio
authority = Authority()
mesh = LocalMesh(authority)
channel = meshlib_grpc.channel("reviews:9080", mesh=mesh)
one = channel.unary_unary("/test.Echo/One")
def serve_and_call():
    with Echo("v1", LocalMesh(authority, "reviews")) as echo:
        mesh.know(destination("reviews:9080", {"v1": [endpoint(echo.port, tls=True)]}, sans=[spiffe("reviews")]))
        assert json.loads(one(b"echo", timeout=10))["name"] == "v1"
        channel.close()
for _ in range(2):
    child = os.fork()
    if child == 0:
        serve_and_call()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
serve_and_call()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_retries_until_the_first_message_only(scene: Scene) -> None:
    """A stream that broke after its first message is not begun anew, even where the policy would."""
    scene.configure(retry=replace(ISTIO_RETRY, retries=5))
    await refused(scene.caller.many(b"broken"))
    assert scene.echo.seen["broken"] == 1
