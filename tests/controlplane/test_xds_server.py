from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message
from meshlib_control import objects, yaml
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.registry import Registry
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds.exchange import SyncState
from meshlib_control.xds.server import SERVER_OPTIONS, SERVICE, DiscoveryService

HOST = "reviews.default.svc.cluster.local"
ROUTES = f"outbound|9080||{HOST}"
V2 = f"outbound|9080|v2|{HOST}"

RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""

ALL_TO_V2 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v2}
"""


@dataclass(frozen=True)
class Account:
    namespace: str
    service_account: str

    @property
    def spiffe_id(self) -> str:
        return f"spiffe://cluster.local/ns/{self.namespace}/sa/{self.service_account}"


async def by_bearer(context: Any) -> Account:
    """A stand-in for real tokens: `Bearer namespace/account`."""
    token = dict(context.invocation_metadata()).get("authorization", "")
    if "/" not in token:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no credential")
    return Account(*token.removeprefix("Bearer ").split("/"))


class Plane:
    """A discovery service with its registry, on a real port."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, MeshObject] = {}
        self.registry = Registry()
        self.service = DiscoveryService(
            self.registry, lambda: self.registry.world(self.objects), by_bearer, lambda: 1000.0, quiet=0.02, longest=0.2
        )
        self.address = ""

    def apply(self, text: str) -> None:
        for document in yaml.load(text, "test.yaml"):
            self.objects.update({item.key: item for item in objects.read(document)})
        self.service.changed()


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    plane = Plane()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((plane.service.handler(),))
    plane.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    plane.service.start()
    try:
        yield plane
    finally:
        plane.service.stop()
        await server.stop(None)


def node(instance: str, services: list[dict[str, Any]] = [], namespace: str = "default", **labels: str) -> Any:  # noqa: B006 - never changed
    metadata = message("google.protobuf.Struct")()
    metadata.fields["NAMESPACE"].string_value = namespace
    metadata.fields["GENERATOR"].string_value = "library"
    for name, value in labels.items():
        metadata.fields["LABELS"].struct_value.fields[name].string_value = value
    for service in services:
        entry = metadata.fields["MESHLIB_SERVICES"].list_value.values.add().struct_value
        for name, value in service.items():
            if isinstance(value, str):
                entry.fields[name].string_value = value
            else:
                entry.fields[name].number_value = value
    return message("envoy.config.core.v3.Node")(
        id=f"library~127.0.0.1~{instance}.{namespace}~{namespace}.svc.cluster.local", metadata=metadata
    )


def reviews(version: str, target_port: int) -> Any:
    entry = {"service": "reviews", "port": 9080, "target_port": target_port, "protocol": "http"}
    return node(f"reviews-{version}-x", [entry], app="reviews", version=version)


class Client:
    """One stream, spoken by hand."""

    response_type = ""
    request_type = ""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, **fields: Any) -> None:
        request = message(f"envoy.service.discovery.v3.{self.request_type}")(**fields)
        await self.call.write(request.SerializeToString())

    async def receive(self, timeout: float = 5.0) -> Any:
        data = await asyncio.wait_for(self.call.read(), timeout)
        assert data is not grpc.aio.EOF, f"{await self.call.code()}: {await self.call.details()}"
        return message(f"envoy.service.discovery.v3.{self.response_type}").FromString(data)

    async def silent(self, seconds: float = 0.15) -> bool:
        reading = asyncio.ensure_future(self.call.read())
        done, _ = await asyncio.wait([reading], timeout=seconds)
        if not done:
            reading.cancel()
        return not done


class Delta(Client):
    request_type, response_type = "DeltaDiscoveryRequest", "DeltaDiscoveryResponse"

    async def subscribe(self, type_url: str, *names: str, **fields: Any) -> None:
        await self.send(type_url=type_url, resource_names_subscribe=names, **fields)

    async def acknowledge(self, response: Any, error: str = "") -> None:
        detail = {"error_detail": {"code": 3, "message": error}} if error else {}
        await self.send(type_url=response.type_url, response_nonce=response.nonce, **detail)


class State(Client):
    request_type, response_type = "DiscoveryRequest", "DiscoveryResponse"

    async def subscribe(self, type_url: str, *names: str, **fields: Any) -> None:
        await self.send(type_url=type_url, resource_names=names, **fields)

    async def acknowledge(self, response: Any, *names: str, error: str = "") -> None:
        detail = {"error_detail": {"code": 3, "message": error}} if error else {"version_info": response.version_info}
        await self.send(type_url=response.type_url, response_nonce=response.nonce, resource_names=names, **detail)


@asynccontextmanager
async def stream(plane: Plane, kind: type[Any], token: str = "default/productpage") -> AsyncIterator[Any]:
    method = "DeltaAggregatedResources" if kind is Delta else "StreamAggregatedResources"
    async with grpc.aio.insecure_channel(plane.address) as channel:
        metadata = (("authorization", f"Bearer {token}"),)
        call = channel.stream_stream(f"/{SERVICE}/{method}")(metadata=metadata)
        try:
            yield kind(call)
        finally:
            call.cancel()


async def refusal(client: Client) -> tuple[grpc.StatusCode, str]:
    """How the server ended the stream."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(client.call.read(), 5)
    return raised.value.code(), raised.value.details() or ""


def names_in(response: Any) -> list[str]:
    return [resource.name for resource in response.resources]


def addresses(resource: Any) -> list[int]:
    body = message("envoy.config.endpoint.v3.ClusterLoadAssignment").FromString(resource.value)
    return sorted(
        endpoint.endpoint.address.socket_address.port_value for group in body.endpoints for endpoint in group.lb_endpoints
    )


async def until(condition: Callable[[], bool], step: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0.01)) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await step()


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
