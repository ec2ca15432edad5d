from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds.exchange import SyncState
from meshlib_control.xds.server import SERVICE
from tests.support.discovery import (
    ALL_TO_V2,
    HOST,
    ROUTES,
    RULES,
    V2,
    Client,
    Delta,
    Plane,
    State,
    addresses,
    names_in,
    node,
    refusal,
    reviews,
    running_plane,
    stream,
    until,
)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with running_plane() as plane:
        yield plane


async def test_a_client_learns_of_a_service_when_it_registers_and_when_its_process_ends(plane: Plane) -> None:
    """The stream is the lease: from absent to there; then the service stays, without endpoints."""
    async with stream(plane, Delta) as client:
        await client.subscribe(LISTENER, "reviews:9080", node=node("client"))
        assert list((await client.receive()).removed_resources) == ["reviews:9080"]
        async with stream(plane, Delta, "default/bookinfo-reviews") as server:
            await server.subscribe(LISTENER, "xds.istio.io/grpc/lds/inbound/127.0.0.1:7001", node=reviews("v1", 7001))
            assert names_in(await server.receive()) == ["xds.istio.io/grpc/lds/inbound/127.0.0.1:7001"]
            assert names_in(await client.receive()) == ["reviews:9080"]
            await client.subscribe(ENDPOINT, ROUTES)
            assert addresses((await client.receive()).resources[0].resource) == [7001]
        left = await client.receive()
        assert left.type_url == ENDPOINT
        assert addresses(left.resources[0].resource) == []
        await client.subscribe(LISTENER, "reviews.default:9080")
        assert names_in(await client.receive()) == ["reviews.default:9080"]


async def test_an_applied_object_reaches_a_delta_client_in_push_order(plane: Plane) -> None:
    """What is referred to goes first: clusters, endpoints, then routes."""
    async with stream(plane, Delta, "default/reviews") as server, stream(plane, Delta) as client:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        await client.subscribe(ROUTE, ROUTES, node=node("client"))
        await client.receive()
        await client.subscribe(ENDPOINT, V2)
        assert list((await client.receive()).removed_resources) == [V2]
        await client.subscribe(CLUSTER, V2)
        assert list((await client.receive()).removed_resources) == [V2]
        plane.apply(RULES + "---" + ALL_TO_V2)
        pushed = [await client.receive() for _ in range(3)]
        assert [response.type_url for response in pushed] == [CLUSTER, ENDPOINT, ROUTE]
        assert addresses(pushed[1].resources[0].resource) == [7002]


async def test_state_of_the_world_repeats_all_clusters_and_only_changed_routes(plane: Plane) -> None:
    """LDS and CDS responses hold everything, the others what changed."""
    async with stream(plane, State, "default/reviews") as server, stream(plane, State) as client:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        await client.subscribe(CLUSTER, node=node("client"))
        clusters = await client.receive()
        assert len(clusters.resources) == 1
        await client.acknowledge(clusters)
        await client.subscribe(ROUTE, ROUTES)
        await client.acknowledge(await client.receive(), ROUTES)
        plane.apply(RULES)
        assert len((await client.receive()).resources) == 3
        plane.apply(ALL_TO_V2)
        assert (await client.receive()).type_url == ROUTE
        assert await client.silent()


async def test_a_rejection_is_shown_with_the_object_that_caused_it(plane: Plane) -> None:
    """`ps` names the VirtualService, and heals with the next good version."""
    async with stream(plane, Delta, "default/reviews") as server, stream(plane, Delta) as client:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        plane.apply(ALL_TO_V2)
        await client.subscribe(ROUTE, ROUTES, node=node("client"))
        response = await client.receive()
        while b"v2" not in response.SerializeToString():
            response = await client.receive()
        await client.acknowledge(response, error="regex is broken")

        def row() -> Any:
            return next(row for row in plane.service.status() if "client" in row.node.id)

        await until(lambda: row().state is SyncState.NACK)
        (status,) = row().types
        assert status.error == "regex is broken"
        assert [str(key) for key in status.objects] == ["VirtualService default/reviews"]
        plane.apply(ALL_TO_V2.replace("v2", "v1"))
        await client.acknowledge(await client.receive())
        await until(lambda: row().state is SyncState.SYNCED)


async def test_a_client_that_rejects_everything_for_ever_is_not_sent_the_same_again(plane: Plane) -> None:
    """No loop between a broken client and the server."""
    async with stream(plane, State) as client:
        await client.subscribe(LISTENER, "xds.istio.io/grpc/lds/inbound/127.0.0.1:1", node=node("client"))
        response = await client.receive()
        for _ in range(3):
            await client.acknowledge(response, "xds.istio.io/grpc/lds/inbound/127.0.0.1:1", error="no")
        assert await client.silent()


async def test_a_client_that_never_acknowledges_still_gets_the_latest_state(plane: Plane) -> None:
    """And the table of open responses stays bounded."""
    async with stream(plane, Delta, "default/reviews") as server, stream(plane, Delta) as client:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        await client.subscribe(ROUTE, ROUTES, node=node("client"))
        await client.receive()
        for version in range(50):
            plane.apply(ALL_TO_V2.replace("v2", f"v{version}"))
            assert f"v{version}".encode() in (await client.receive()).SerializeToString()
        row = next(row for row in plane.service.status() if "client" in row.node.id)
        assert row.state is SyncState.STALE


async def test_a_client_that_does_not_read_does_not_stall_another(plane: Plane) -> None:
    """Each stream is written by its own loop, and holds no queue."""
    async with stream(plane, Delta, "default/reviews") as server, stream(plane, Delta) as slow, stream(plane, Delta) as quick:
        await server.subscribe(LISTENER, "x", node=reviews("v2", 7002))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)
        await slow.subscribe(ROUTE, ROUTES, node=node("slow"))
        await quick.subscribe(ROUTE, ROUTES, node=node("quick"))
        await quick.receive()
        long = "x" * 400_000
        for version in range(20):
            match = f"[{{headers: {{a: {{exact: '{long}-{version}-'}}}}}}]"
            route = f"  - match: {match}\n    route: [{{destination: {{host: reviews}}}}]\n"
            plane.apply(ALL_TO_V2.replace("  http:\n", "  http:\n" + route))
            assert f"-{version}-".encode() in (await quick.receive()).SerializeToString()
        received = [(await slow.receive()).SerializeToString()]
        while b"-19-" not in received[-1]:
            received.append((await slow.receive()).SerializeToString())
        assert len(received) < 15, "what the slow one missed is skipped, not queued"


@pytest.mark.parametrize("kind", [Delta, State])
async def test_garbage_ends_the_stream_with_the_reason(plane: Plane, kind: type[Client]) -> None:
    """A message that cannot be parsed harms nobody else."""
    async with stream(plane, kind) as client:
        await client.call.write(b"\xff\xff\xffgarbage")
        code, details = await refusal(client)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "DiscoveryRequest" in details
    assert plane.service.status() == []


async def test_a_stream_must_say_who_it_is(plane: Plane) -> None:
    """Without a node nothing can be translated."""
    async with stream(plane, Delta) as client:
        await client.subscribe(LISTENER, "reviews:9080")
        code, details = await refusal(client)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "node" in details


async def test_no_credential_no_stream(plane: Plane) -> None:
    """Every client proves who it is."""
    async with stream(plane, Delta, "") as client:
        assert (await refusal(client))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_node_cannot_claim_another_namespace(plane: Plane) -> None:
    """Registering in a foreign namespace would steal its traffic."""
    async with stream(plane, Delta, "shop/thief") as client:
        await client.subscribe(LISTENER, "x", node=reviews("v1", 7001))
        code, details = await refusal(client)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "meshlib token create --namespace default" in details
    assert plane.registry.nodes == ()


async def test_a_bad_registration_is_refused_with_its_field(plane: Plane) -> None:
    """The message says which entry is wrong."""
    async with stream(plane, Delta) as client:
        await client.subscribe(LISTENER, "x", node=node("x", [{"service": "reviews", "port": 70000}]))
        assert "MESHLIB_SERVICES[0].port" in (await refusal(client))[1]


async def test_workers_of_one_port_are_one_instance_until_the_last_ends(plane: Plane) -> None:
    """A prefork server is one endpoint."""
    async with stream(plane, Delta, "default/r") as first:
        async with stream(plane, Delta, "default/r") as second:
            await first.subscribe(LISTENER, "x", node=reviews("v1", 7001))
            await second.subscribe(LISTENER, "x", node=reviews("v1", 7001))
            await until(lambda: len(plane.registry.nodes) == 2)
            world = plane.registry.world({})
            assert len(world.services[HOST].instances[9080]) == 1
        await until(lambda: len(plane.registry.nodes) == 1)
        assert len(plane.registry.world({}).services[HOST].instances[9080]) == 1
    await until(lambda: not plane.registry.nodes)
    assert plane.registry.world({}).services[HOST].instances[9080] == ()


async def test_a_server_announces_its_registration_on_a_stream_that_is_open(plane: Plane) -> None:
    """A later request may describe the node anew."""
    async with stream(plane, Delta, "default/r") as server:
        await server.subscribe(LISTENER, "x", node=node("reviews-v1-x"))
        await server.receive()
        await server.send(type_url=LISTENER, node=reviews("v1", 7001))
        await until(lambda: HOST in plane.service.snapshots.current.world.services)


async def test_two_thousand_streams_at_once_are_all_answered(plane: Plane) -> None:
    """grpc.aio would refuse some of a burst without the server's options."""
    async with grpc.aio.insecure_channel(plane.address) as channel:

        async def one(number: int) -> str:
            call = channel.stream_stream(f"/{SERVICE}/DeltaAggregatedResources")(
                metadata=(("authorization", "Bearer default/r"),)
            )
            client = Delta(call)
            await client.subscribe(LISTENER, "reviews:9080", node=node(f"client-{number}"))
            response = await client.receive(60)
            call.cancel()
            return response.removed_resources[0]

        answers = await asyncio.gather(*(one(number) for number in range(2000)))
    assert answers == ["reviews:9080"] * 2000
