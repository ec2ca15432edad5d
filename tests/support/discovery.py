"""The xDS server on a real port, and streams spoken by hand over real gRPC."""

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

    def __init__(self, **settings: Any) -> None:
        self.objects: dict[ObjectKey, MeshObject] = {}
        self.registry = Registry()
        pace: dict[str, Any] = {"quiet": 0.02, "longest": 0.2}
        self.service = DiscoveryService(
            self.registry, lambda: self.registry.world(self.objects), by_bearer, lambda: 1000.0, **pace, **settings
        )
        self.address = ""

    def apply(self, text: str) -> None:
        for document in yaml.load(text, "test.yaml"):
            self.objects.update({item.key: item for item in objects.read(document)})
        self.service.changed()


@asynccontextmanager
async def running_plane(**settings: Any) -> AsyncIterator[Plane]:
    """A plane that serves; `settings` are further arguments of the service."""
    plane = Plane(**settings)
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
