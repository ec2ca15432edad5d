"""Broken and hostile clients over real gRPC: each is contained, and others do not notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds.limits import Limits, OpenStreams, Pace, TooMuch
from meshlib_control.xds.node import read_node
from meshlib_control.xds.server import SERVICE
from tests.support.discovery import (
    ALL_TO_V2,
    HOST,
    ROUTES,
    Account,
    Client,
    Delta,
    Plane,
    State,
    node,
    refusal,
    reviews,
    running_plane,
    stream,
    until,
)

LIMITS = Limits()
NOTICED = 3.0  # seconds; the machine may be busy. Whoever is held up waits for as long as the hostile client pleases
"""Seconds from a change to its arrival that nobody may exceed while others misbehave; it is some 0.03 when they do not."""
METHOD = f"/{SERVICE}/DeltaAggregatedResources"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with running_plane() as plane:
        yield plane


class Witness:
    """A good client: how long do changes take to reach it?"""

    def __init__(self, plane: Plane, client: Delta) -> None:
        self._plane, self._client = plane, client
        self._numbers: Iterator[int] = iter(range(1_000_000))

    async def latencies(self, count: int = 5) -> list[float]:
        found = []
        for number in (next(self._numbers) for _ in range(count)):
            began = time.perf_counter()
            self._plane.apply(ALL_TO_V2.replace("v2", f"w{number}"))
            response = await self._client.receive()
            while f"|w{number}|".encode() not in response.SerializeToString():
                await self._client.acknowledge(response)
                response = await self._client.receive()
            await self._client.acknowledge(response)
            found.append(time.perf_counter() - began)
        return found

    async def notices_nothing(self, count: int = 5) -> None:
        assert max(await self.latencies(count)) < NOTICED


@asynccontextmanager
async def witness(plane: Plane) -> AsyncIterator[Witness]:
    async with stream(plane, Delta, "default/reviews") as server, stream(plane, Delta, "default/witness") as client:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        await client.subscribe(ROUTE, ROUTES, node=node("witness"))
        await client.acknowledge(await client.receive())
        yield Witness(plane, client)


async def for_a_while(act: Callable[[], Awaitable[None]], meanwhile: Callable[[], Awaitable[None]]) -> int:
    """Repeats an act until something else is done; how often."""
    done = asyncio.Event()

    async def again() -> int:
        count = 0
        while not done.is_set():
            await act()
            count += 1
            await asyncio.sleep(0)
        return count

    task = asyncio.create_task(again())
    try:
        await meanwhile()
        assert not task.done(), task.result()
    finally:
        done.set()
    return await asyncio.wait_for(task, 10)


async def status_after_all(client: Client) -> grpc.StatusCode:
    """How the stream ended, after everything that came before."""
    with suppress(grpc.aio.AioRpcError):
        while await client.call.read() is not grpc.aio.EOF:
            pass
    status: grpc.StatusCode = await client.call.code()
    return status


# What is refused, and how


@pytest.mark.parametrize("kind", [Delta, State])
async def test_names_without_end_are_refused(plane: Plane, kind: type[Client]) -> None:
    """100,000 in one request; the reason says how many are taken."""
    async with witness(plane) as others, stream(plane, kind, "default/greedy") as greedy:
        await greedy.subscribe(ENDPOINT, *(f"n{number}" for number in range(100_000)), node=node("greedy"))
        code, details = await refusal(greedy)
        assert (code, "100,000" in details, "20,000" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True, True)
        await others.notices_nothing()


async def test_names_are_counted_over_requests_and_types(plane: Plane) -> None:
    """Nobody gets more by asking in pieces."""
    async with stream(plane, Delta, "default/greedy") as greedy:
        await greedy.subscribe(ENDPOINT, *(f"a{number}" for number in range(12_000)), node=node("greedy"))
        await greedy.receive()
        await greedy.subscribe(CLUSTER, *(f"b{number}" for number in range(12_000)))
        assert (await refusal(greedy))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert plane.service.status() == []


async def test_as_many_names_as_are_allowed_are_served(plane: Plane) -> None:
    """The limit is no trap: who stays below is answered in full, and does not disturb others for long."""
    async with witness(plane) as others, stream(plane, Delta, "default/big") as big:
        await big.subscribe(ENDPOINT, *(f"n{number}" for number in range(LIMITS.names)), node=node("big"))
        response = await big.receive(20)
        assert len(response.removed_resources) == LIMITS.names
        await others.notices_nothing()


async def test_as_many_names_as_are_allowed_again_and_again(plane: Plane) -> None:
    """New ones each time, so that nothing that was made helps; others have their turns in between."""
    numbers = iter(range(1000))

    async def act() -> None:
        async with stream(plane, Delta, "default/big") as big:
            number = next(numbers)
            await big.subscribe(ENDPOINT, *(f"{number}-{name}" for name in range(LIMITS.names)), node=node("big"))
            assert len((await big.receive(20)).removed_resources) == LIMITS.names

    async with witness(plane) as others:
        assert await for_a_while(act, lambda: others.notices_nothing(20)) > 0


async def test_a_huge_message_is_refused_before_it_is_read(plane: Plane) -> None:
    """By gRPC itself."""
    async with witness(plane) as others, stream(plane, Delta, "default/huge") as huge:
        await huge.call.write(b"\x00" * (LIMITS.message + 1))
        code, details = await refusal(huge)
        assert (code, str(LIMITS.message) in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        await others.notices_nothing()


async def test_an_enormous_node_is_refused(plane: Plane) -> None:
    """Its labels would stay in memory as long as the stream."""
    async with witness(plane) as others, stream(plane, Delta, "default/fat") as fat:
        await fat.subscribe(LISTENER, "x", node=node("fat", label="x" * LIMITS.node))
        code, details = await refusal(fat)
        assert (code, "node" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        await others.notices_nothing()


async def test_a_node_that_serves_everything_is_refused(plane: Plane) -> None:
    """Each registration becomes an endpoint that others get."""
    many = [{"service": "s", "port": 1 + number, "target_port": 1} for number in range(LIMITS.registrations + 1)]
    async with stream(plane, Delta, "default/fat") as fat:
        await fat.subscribe(LISTENER, "x", node=node("fat", many))
        assert (await refusal(fat))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert plane.registry.nodes == ()


@pytest.mark.parametrize("field", ["name", "type", "version"])
async def test_long_words_are_refused(plane: Plane, field: str) -> None:
    """Names, types and versions are kept."""
    long = "x" * (LIMITS.name + 1)
    given: dict[str, Any] = {
        "name": {"type_url": ROUTE, "resource_names_subscribe": [long]},
        "type": {"type_url": long},
        "version": {"type_url": ROUTE, "initial_resource_versions": {"a": long}},
    }
    async with stream(plane, Delta, "default/long") as client:
        await client.send(node=node("long"), **given[field])
        code, details = await refusal(client)
        assert (code, field in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


async def test_types_without_end_are_refused(plane: Plane) -> None:
    """Each has a table."""
    async with stream(plane, Delta, "default/types") as client:
        await client.send(type_url="first", node=node("types"))
        for number in range(LIMITS.types):
            await client.send(type_url=f"type-{number}")
        assert await asyncio.wait_for(status_after_all(client), 5) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_identity_has_so_many_streams_and_no_more() -> None:
    """One that ends makes room; other identities are not concerned."""
    async with (
        running_plane(limits=replace(LIMITS, streams=3)) as plane,
        stream(plane, Delta, "default/a") as first,
        stream(plane, State, "default/a") as second,
    ):
        async with stream(plane, Delta, "default/a") as third:
            for number, client in enumerate((first, second, third)):
                await client.subscribe(LISTENER, "reviews:9080", node=node(f"a{number}"))
                await client.receive()
            async with stream(plane, Delta, "default/a") as fourth:
                code, details = await refusal(fourth)
                assert (code, "sa/a has 3 streams" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            async with stream(plane, Delta, "default/b") as other:
                await other.subscribe(LISTENER, "reviews:9080", node=node("b"))
                await other.receive()
        await until(lambda: len(plane.service.status()) == 2)
        async with stream(plane, Delta, "default/a") as again:
            await again.subscribe(LISTENER, "reviews:9080", node=node("a5"))
            await again.receive()


async def test_a_stream_that_never_says_anything_is_ended() -> None:
    """It holds a place of its identity."""
    async with running_plane(limits=replace(LIMITS, silence=0.1)) as plane, stream(plane, Delta) as silent:
        code, details = await refusal(silent)
        assert (code, "nothing was asked" in details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)


async def test_a_stream_that_spoke_once_may_be_silent() -> None:
    """Most are, for most of the time."""
    async with running_plane(limits=replace(LIMITS, silence=0.1)) as plane, stream(plane, Delta) as client:
        await client.subscribe(LISTENER, "reviews:9080", node=node("quiet"))
        await client.receive()
        assert await client.silent(0.3)


# Those who do not stop


async def test_garbage_again_and_again(plane: Plane) -> None:
    """Each stream ends with the reason; the next begins with the same."""

    async def act() -> None:
        async with stream(plane, Delta, "default/broken") as client:
            await client.call.write(b"\xff\xff\xffgarbage")
            assert (await refusal(client))[0] is grpc.StatusCode.INVALID_ARGUMENT

    async with witness(plane) as others:
        assert await for_a_while(act, others.notices_nothing) > 0


async def test_a_client_that_never_acknowledges(plane: Plane) -> None:
    """It is sent the newest state all the same, and what is open for it stays bounded."""
    async with witness(plane) as others, stream(plane, Delta, "default/deaf") as deaf:
        await deaf.subscribe(ROUTE, ROUTES, node=node("deaf"))
        await others.notices_nothing(40)
        last = await deaf.receive()
        while b"|w39|" not in last.SerializeToString():
            last = await deaf.receive()


@pytest.mark.parametrize("kind", [Delta, State])
async def test_a_client_that_rejects_for_ever(plane: Plane, kind: type[Client], caplog: pytest.LogCaptureFixture) -> None:
    """As fast as it can: it is slowed down, its log lines end, the same is not sent again."""
    async with witness(plane) as others, stream(plane, kind, "default/angry") as angry:
        await angry.subscribe(ROUTE, ROUTES, node=node("angry"))
        response = await angry.receive()
        names = (ROUTES,) if kind is State else ()

        async def act() -> None:
            await angry.acknowledge(response, *names, error="never\n" + "x" * 10_000)

        await for_a_while(act, others.notices_nothing)
    rejections = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert 1 <= len(rejections) <= LIMITS.told
    assert all(len(text) < LIMITS.error + 500 and "\n" not in text for text in rejections)


async def test_a_client_that_reads_nothing(plane: Plane) -> None:
    """Its unread responses do not pile up: gRPC's window is full, then nothing is made for it."""
    async with witness(plane) as others, stream(plane, Delta, "default/blind") as blind:
        await blind.subscribe(ROUTE, ROUTES, node=node("blind"))
        await others.notices_nothing(30)
        for number in range(20):
            await blind.subscribe(CLUSTER, f"c{number}")
        await others.notices_nothing()


async def test_streams_that_open_and_close_at_once(plane: Plane) -> None:
    """Nothing is left of them."""
    async with witness(plane) as others, grpc.aio.insecure_channel(plane.address) as channel:

        async def act() -> None:
            call = channel.stream_stream(METHOD)(metadata=(("authorization", "Bearer default/moth"),))
            request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
                type_url=LISTENER, node=node("moth"), resource_names_subscribe=["reviews:9080"]
            )
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(request.SerializeToString())
            call.cancel()

        assert await for_a_while(act, others.notices_nothing) > 10
    await until(lambda: plane.service.status() == [])
    assert plane.registry.nodes == ()


async def test_a_server_that_comes_and_goes_without_end(plane: Plane) -> None:
    """Its registration changes faster than the world is quiet; changes of others still go out in time."""
    async with witness(plane) as others, stream(plane, Delta, "default/flutter") as flutter:
        ports = iter(range(10_000, 60_000))
        await flutter.subscribe(LISTENER, "x", node=reviews("v1", next(ports)))

        async def act() -> None:
            await flutter.send(type_url=LISTENER, node=reviews("v1", next(ports)))
            await asyncio.sleep(0.005)

        await for_a_while(act, others.notices_nothing)


async def test_requests_without_end_wait(plane: Plane) -> None:
    """A stream that asks as fast as it can is read at its pace, and the rest stays in its own socket."""
    async with witness(plane) as others, stream(plane, Delta, "default/chatter") as chatter:
        await chatter.subscribe(LISTENER, "x", node=node("chatter"))

        async def act() -> None:
            await chatter.subscribe(LISTENER, "x")

        await for_a_while(act, others.notices_nothing)


async def test_plain_noise_on_the_port(plane: Plane) -> None:
    """Not even HTTP/2."""
    host, _, port = plane.address.rpartition(":")

    async def act() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
        with suppress(ConnectionError):
            await writer.drain()
            await reader.read(100)
        writer.close()

    async with witness(plane) as others:
        assert await for_a_while(act, others.notices_nothing) > 0


# The arithmetic


def test_a_pace_lets_a_burst_through_and_then_so_many_a_second() -> None:
    """And a pause is made up for, up to a burst."""
    pace = Pace(rate=10.0, burst=3)
    assert [pace.wait(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.1, 0.2]
    assert pace.wait(0.2) == pytest.approx(0.1)
    assert [pace.wait(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]


def test_open_streams_are_counted_by_identity() -> None:
    """And forgotten when the last has ended."""
    streams = OpenStreams(1)
    with (
        streams.one_more("a"),
        streams.one_more("b"),
        pytest.raises(TooMuch, match="a has 1 streams open"),
        streams.one_more("a"),
    ):
        pass
    with streams.one_more("a"):
        pass
    assert not streams._open


@pytest.mark.parametrize("kind", [Delta, State])
async def test_a_response_that_grpc_cannot_take_is_not_sent(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    """The stream ends with the numbers; other kinds of client, which have no such limit, are served."""
    async with running_plane(limits=replace(LIMITS, grpc_response=400)) as plane:
        plane.registry.connect("reviews", read_node(reviews("v1", 7001), Account("default", "reviews")))
        plane.service.changed()
        await asyncio.sleep(0.1)
        for client, served in (("grpc", False), ("library", True)):
            async with stream(plane, kind) as found:
                asks = node("caller")
                asks.metadata.fields["GENERATOR"].string_value = client
                await found.subscribe(LISTENER, "reviews:9080", node=asks)
                if served:
                    assert len((await found.receive()).resources) == 1
                else:
                    code, details = await refusal(found)
                    assert (code, "1 of Listener has " in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert "caller" in caplog.text
    assert "cannot be served: one response with 1 of Listener" in caplog.text
