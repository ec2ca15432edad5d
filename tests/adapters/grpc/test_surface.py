"""Channels of engine 1 behave as gRPC's own where applications look: interceptors, writing, states, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

import meshlib_grpc
import meshlib_grpc.aio
from meshlib.config.model import RetryPolicy
from tests.support.grpc_echo import Echo
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe

RETRY = RetryPolicy(frozenset({"unavailable"}), retries=2, backoff_base=0.001, backoff_max=0.002)


@pytest.fixture
def mesh(authority: Authority, echo: Echo) -> LocalMesh:
    """A client's mesh that knows reviews."""
    made = LocalMesh(authority)
    known = destination("reviews:9080", {"v1": [endpoint(echo.port, tls=True)]}, sans=[spiffe("reviews")], retry=RETRY)
    made.know(known)
    return made


@pytest.fixture
def channel(mesh: LocalMesh) -> Iterator[grpc.Channel]:
    with meshlib_grpc.channel("reviews:9080", mesh=mesh) as made:  # type: ignore[arg-type]
        yield made


class Tagging(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Adds metadata, as interceptors of applications do."""

    def _go(self, continuation: Any, details: Any, request: Any) -> Any:
        details = _Details(details.method, details.timeout, [*(details.metadata or ()), ("x-tag", "1")], details.credentials)
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _go


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    def __init__(self, method: str, timeout: Any, metadata: Any, credentials: Any) -> None:
        self.method, self.timeout, self.metadata, self.credentials = method, timeout, metadata, credentials
        self.wait_for_ready = self.compression = None


def test_interceptors_of_the_application(channel: grpc.Channel) -> None:
    """`grpc.intercept_channel` works over a channel of the mesh, for all kinds of calls."""
    tagged = grpc.intercept_channel(channel, Tagging())
    answers = [
        tagged.unary_unary("/test.Echo/One")(b"echo"),
        tagged.unary_unary("/test.Echo/One").future(b"echo").result(),
        *tagged.unary_stream("/test.Echo/Many")(b"echo"),
        tagged.stream_unary("/test.Echo/Collect")(iter([b"a"])),
        *tagged.stream_stream("/test.Echo/Chat")(iter([b"a"])),
    ]
    assert {json.loads(answer)["metadata"].get("x-tag") for answer in answers} == {"1"}


class AioTagging(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-tag", "1")
        return await continuation(details, request)


class AioStreamTagging(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        details.metadata.add("x-tag", "1")
        return await continuation(details, requests)


async def test_asyncio_interceptors_of_the_application(mesh: LocalMesh) -> None:
    """gRPC's own machinery runs them, ours comes last; messages are encoded as each callable says."""
    interceptors = [AioTagging(), AioStreamTagging()]
    async with meshlib_grpc.aio.channel("reviews:9080", interceptors=interceptors, mesh=mesh) as channel:  # type: ignore[arg-type]
        one = channel.unary_unary("/test.Echo/One", str.encode, json.loads)
        assert (await one("echo"))["metadata"]["x-tag"] == "1"
        raw = channel.unary_unary("/test.Echo/One")
        both = await asyncio.gather(one("echo"), raw(b"echo"))
        assert isinstance(both[0], dict)
        assert isinstance(both[1], bytes)
        chat = channel.stream_stream("/test.Echo/Chat", str.encode, json.loads)()
        await chat.write("a")
        assert (await chat.read())["metadata"]["x-tag"] == "1"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one("abort code=NOT_FOUND words=gone")
        assert caught.value.details() == "gone"


async def test_writing_to_a_stream(mesh: LocalMesh, echo: Echo) -> None:
    """Requests may be written one by one; a try that failed gets those again that were written before."""
    async with meshlib_grpc.aio.channel("reviews:9080", mesh=mesh) as channel:  # type: ignore[arg-type]
        call = channel.stream_stream("/test.Echo/Chat")()
        await call.write(b"abort code=UNAVAILABLE times=1")
        assert json.loads(await call.read())["metadata"]["x-envoy-attempt-count"] == "2"
        await call.write(b"b")
        assert json.loads(await call.read())["request"] == "b"
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"c")
        assert await call.code() is grpc.StatusCode.OK
        mixed = channel.stream_stream("/test.Echo/Chat")(iter([b"a"]))
        with pytest.raises(grpc.aio.UsageError):
            await mixed.write(b"b")
        assert [json.loads(one)["request"] async for one in mixed] == ["a"]


async def _result(call: Any) -> Any:
    return await call


async def test_cancelling_the_task_that_waits(mesh: LocalMesh, echo: Echo) -> None:
    """As with gRPC's own calls: the call ends with the task."""
    async with meshlib_grpc.aio.channel("reviews:9080", mesh=mesh) as channel:  # type: ignore[arg-type]
        call = channel.unary_unary("/test.Echo/One")(b"slow seconds=20")
        waiting = asyncio.create_task(_result(call))
        assert await asyncio.to_thread(echo.entered.wait, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        assert await asyncio.to_thread(echo.cancelled.wait, 5)


def test_states(channel: grpc.Channel, mesh: LocalMesh) -> None:
    """A channel is ready when there is somebody to send to."""
    grpc.channel_ready_future(channel).result(timeout=5)
    mesh.know(destination("reviews:9080", {"v1": []}))
    other = meshlib_grpc.channel("reviews:9080", mesh=mesh)  # type: ignore[arg-type]
    with pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(other).result(timeout=0.3)
    other.close()


async def test_asyncio_states(mesh: LocalMesh) -> None:
    """The same for asyncio."""
    async with meshlib_grpc.aio.channel("reviews:9080", mesh=mesh) as channel:  # type: ignore[arg-type]
        await asyncio.wait_for(channel.channel_ready(), 5)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


def test_closed_channels(channel: grpc.Channel) -> None:
    """A closed channel refuses calls as gRPC's own do."""
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        channel.unary_unary("/test.Echo/One")(b"echo")


def test_futures(channel: grpc.Channel, echo: Echo) -> None:
    """A future tells its end to whoever asked, and can be waited for with a limit."""
    ended: list[Any] = []
    future = channel.unary_unary("/test.Echo/One").future(b"slow seconds=0.3")
    future.add_done_callback(ended.append)
    assert future.is_active()
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    assert json.loads(future.result(timeout=5))["name"] == "v1"
    assert future.code() is grpc.StatusCode.OK
    assert future.exception() is None
    future.add_done_callback(ended.append)
    assert ended[-1] is future


def test_messages_that_cannot_be_encoded(channel: grpc.Channel, echo: Echo) -> None:
    """INTERNAL, as with gRPC's own channels; nothing is sent."""

    def broken(message: Any) -> bytes:
        raise ValueError(message)

    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/One", broken)(b"echo")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/One", None, broken)(b"echo")
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_asyncio_messages_that_cannot_be_encoded(mesh: LocalMesh) -> None:
    """The same for asyncio."""

    def broken(message: Any) -> bytes:
        raise ValueError(message)

    async with meshlib_grpc.aio.channel("reviews:9080", mesh=mesh) as channel:  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Echo/One", broken)(b"echo")
        assert caught.value.code() is grpc.StatusCode.INTERNAL


def test_options_reach_the_connections(mesh: LocalMesh) -> None:
    """A limit of the application's holds on the way to an endpoint."""
    options = [("grpc.max_receive_message_length", 10)]
    with meshlib_grpc.channel("reviews:9080", options, mesh=mesh) as channel:  # type: ignore[arg-type]
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/One")(b"echo")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
