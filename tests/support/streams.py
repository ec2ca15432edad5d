"""Synthetic ADS clients: many streams in one process, each with its own node, spoken by hand over a few connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from meshlib.config.messages import message, type_url

LISTENER = type_url("envoy.config.listener.v3.Listener")
ROUTE = type_url("envoy.config.route.v3.RouteConfiguration")
CLUSTER = type_url("envoy.config.cluster.v3.Cluster")
ENDPOINT = type_url("envoy.config.endpoint.v3.ClusterLoadAssignment")
PORT = 9080

_ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_DISCOVERY = "envoy.service.discovery.v3."


@dataclass(frozen=True)
class Member:
    """What a stream says about itself. `serves` are (service, target port)."""

    name: str
    address: str
    account: str
    serves: tuple[tuple[str, int], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def node(self) -> Any:
        """As an xDS node."""
        found = message("envoy.config.core.v3.Node")(
            id=f"library~{self.address}~{self.name}.default~default.svc.cluster.local", user_agent_name="meshlib"
        )
        services = [{"service": name, "port": PORT, "target_port": port, "protocol": "http"} for name, port in self.serves]
        facts = {"GENERATOR": "library", "NAMESPACE": "default", "NAME": self.name, "INSTANCE_IPS": self.address}
        found.metadata.update({**facts, "LABELS": dict(self.labels), "MESHLIB_SERVICES": services})
        return found


@dataclass(frozen=True)
class Received:
    """A response as a stream saw it. `at` is when it was acknowledged, seconds of `time.perf_counter`."""

    at: float
    type_url: str
    names: tuple[str, ...]
    removed: tuple[str, ...]
    size: int
    body: Any = None


class Stream:
    """One stream that acknowledges everything.

    Args:
        call: of gRPC, messages as bytes.
        delta: the variant.
        services: what it calls, by short name.
        on_response: told of every response, after its ACK was written.
    """

    def __init__(
        self, call: Any, delta: bool, member: Member, services: Sequence[str], on_response: Callable[[], None] = lambda: None
    ) -> None:
        self.delta, self.member, self.services = delta, member, services
        self.received: list[Received] = []
        self.held: dict[str, set[str]] = {LISTENER: set(), ROUTE: set(), CLUSTER: set(), ENDPOINT: set()}
        self._call, self._on_response = call, on_response
        kind = "DeltaDiscovery" if delta else "Discovery"
        self._request, self._response = message(f"{_DISCOVERY}{kind}Request"), message(f"{_DISCOVERY}{kind}Response")

    @property
    def wanted(self) -> dict[str, list[str]]:
        """What it subscribes to: all four types of each service."""
        hosts = [f"outbound|{PORT}||{service}.default.svc.cluster.local" for service in self.services]
        return {CLUSTER: hosts, ENDPOINT: hosts, LISTENER: [f"{service}:{PORT}" for service in self.services], ROUTE: hosts}

    @property
    def complete(self) -> bool:
        """Whether it holds everything that it wants."""
        return all(self.held[kind] >= set(names) for kind, names in self.wanted.items())

    async def run(self) -> None:
        """Subscribe, then acknowledge until the stream ends."""
        node = self.member.node()
        for kind, names in self.wanted.items():
            await self._ask(kind, names, node=node)
            node = None
        while (data := await self._call.read()) is not grpc.aio.EOF:
            await self._answer(data)

    async def announce(self, member: Member) -> None:
        """Describe the node anew, as a server does once it listens elsewhere."""
        self.member = member
        await self._call.write(self._request(type_url=LISTENER, node=member.node()).SerializeToString())

    def close(self) -> None:
        """End it."""
        self._call.cancel()

    async def _ask(self, kind: str, names: Iterable[str], nonce: str = "", node: Any = None) -> None:
        given = {"resource_names_subscribe" if self.delta else "resource_names": names}
        request = self._request(type_url=kind, response_nonce=nonce, node=node, **given)
        await self._call.write(request.SerializeToString())

    async def _answer(self, data: bytes) -> None:
        response = self._response.FromString(data)
        kind = response.type_url
        removed = tuple(response.removed_resources) if self.delta else ()
        names = tuple(each.name for each in response.resources) if self.delta else _names(kind, response.resources)
        self.held[kind].update(names)
        self.held[kind].difference_update(removed)
        await self._ask(kind, () if self.delta else self.wanted[kind], response.nonce)
        self.received.append(Received(time.perf_counter(), kind, names, removed, len(data), response))
        self._on_response()


def endpoints(received: Received) -> dict[str, set[tuple[str, int]]]:
    """Addresses and ports in a response with endpoints, by cluster."""
    bodies = (each.resource if hasattr(each, "resource") else each for each in received.body.resources)
    found = (_MESSAGES[ENDPOINT].FromString(body.value) for body in bodies)
    return {
        one.cluster_name: {
            (each.endpoint.address.socket_address.address, each.endpoint.address.socket_address.port_value)
            for group in one.endpoints
            for each in group.lb_endpoints
        }
        for one in found
    }


_MESSAGES = {kind: message(kind.rpartition("/")[2]) for kind in (LISTENER, ROUTE, CLUSTER, ENDPOINT)}


def _names(kind: str, resources: Iterable[Any]) -> tuple[str, ...]:
    field_name = "cluster_name" if kind == ENDPOINT else "name"
    return tuple(getattr(_MESSAGES[kind].FromString(each.value), field_name) for each in resources)


class Crowd:
    """Many streams over a few connections.

    Args:
        address, root: of the control plane.
        tokens: join tokens by account.
        connections: how many; two processes on two cores could not hold a connection for each stream under a low `ulimit -n`.
    """

    def __init__(self, address: str, root: bytes, tokens: Mapping[str, str], connections: int) -> None:
        credentials = grpc.ssl_channel_credentials(root_certificates=root)
        self._channels = [
            grpc.aio.secure_channel(address, credentials, options=(("grpc.use_local_subchannel_pool", 1),))
            for _ in range(connections)
        ]
        self._tokens = tokens
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._last = 0.0
        self.streams: list[Stream] = []

    def open(self, member: Member, services: Sequence[str], *, delta: bool) -> Stream:
        """One more stream; it runs until `close`."""
        channel = self._channels[len(self.streams) % len(self._channels)]
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        metadata = (("authorization", f"Bearer {self._tokens[member.account]}"),)
        stream = Stream(channel.stream_stream(_ADS + method)(metadata=metadata), delta, member, services, self._heard)
        self.streams.append(stream)
        self._tasks.append(asyncio.create_task(stream.run()))
        return stream

    async def until(self, fact: Callable[[], bool], limit: float) -> bool:
        """Wait for a fact about what was received; False if it does not come true in time. Raises what ended a stream."""
        end = time.perf_counter() + limit
        while not fact():
            self._raise_failures()
            left = end - time.perf_counter()
            if left <= 0:
                return False
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), min(left, 0.05))
            except TimeoutError:
                continue
        return True

    async def quiet(self, seconds: float) -> None:
        """Wait until nobody has received anything for some time."""
        await self.until(lambda: time.perf_counter() - self._last >= seconds, 60)

    def _heard(self) -> None:
        self._last = time.perf_counter()
        self._news.set()

    def forget(self) -> None:
        """Drop the record of what was received so far."""
        for stream in self.streams:
            stream.received.clear()

    async def close(self) -> None:
        """End all."""
        for stream in self.streams:
            stream.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
                raise ConnectionError("the control plane ended a stream")
