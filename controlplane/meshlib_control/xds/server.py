"""The ADS service: streams of clients, each sent its own latest state.

A stream is two loops: one reads requests into its table, one writes what the table says is due. The writer computes the next
response only when the previous one has left, so a slow reader costs one response of memory and stalls nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from meshlib.errors import ConfigurationError
from meshlib_control.model import Node, World
from meshlib_control.registry import Registry
from meshlib_control.snapshots import Snapshots, places
from meshlib_control.xds.debounce import LONGEST, Debounce
from meshlib_control.xds.exchange import Entry, Response, SyncState, TypeStatus, Variant
from meshlib_control.xds.limits import Limits, OpenStreams, Pace, TooMuch
from meshlib_control.xds.node import Caller, read_node
from meshlib_control.xds.subscriptions import Subscriptions
from meshlib_control.xds.wire import Request, read_request, write_response

_log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

SERVER_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    # Without these, grpc.aio rejects at random once more than 1,000 new streams wait to be accepted.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # A second control plane on the same port must fail to start instead of taking half of the connections.
    ("grpc.so_reuseport", 0),
    # The stream is the lease: a peer that vanished without closing is noticed after a minute.
    ("grpc.keepalive_time_ms", 45_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Refused with RESOURCE_EXHAUSTED before it is in memory.
    ("grpc.max_receive_message_length", Limits().message),
)
"""What a grpc.aio server that carries this service needs."""

_SLICE: Final = 100  # resources made in one go: some milliseconds
_PLACES: Final = 10_000  # remembered before the first look at which of them are still followed

Authenticate = Callable[[Any], Awaitable[Caller]]


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """A row of `ps`: one stream.

    Args:
        connected_since: seconds since the epoch.
        certificate_expires: seconds since the epoch; None if no certificate was issued to it here.
    """

    node: Node
    variant: Variant
    connected_since: float
    types: tuple[TypeStatus, ...]
    certificate_expires: float | None = None

    @property
    def services(self) -> tuple[str, ...]:
        """What it serves, by short name."""
        return tuple(dict.fromkeys(entry.service for entry in self.node.registrations))

    @property
    def state(self) -> SyncState:
        """The worst state of its types."""
        order = (SyncState.NACK, SyncState.STALE, SyncState.NOT_SENT)
        states = {entry.state for entry in self.types}
        return next((state for state in order if state in states), SyncState.SYNCED)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one stream was sent and should have.

    Args:
        connected_since: seconds since the epoch.
        entries: by type_url.
    """

    node: Node
    variant: Variant
    connected_since: float
    entries: Mapping[str, tuple[Entry, ...]]


class _Stream:
    """One client's stream: its table, and the signal that there may be something to send."""

    def __init__(self, stream_id: str, variant: Variant, since: float, limits: Limits) -> None:
        self.id = stream_id
        self.variant = variant
        self.since = since
        self.table = Subscriptions(variant)
        self.node: Node | None = None
        self.wake = asyncio.Event()
        self.pace = Pace(limits.requests, limits.burst)
        self.told = 0  # rejections


class DiscoveryService:
    """ADS in both variants.

    Args:
        registry: told of every stream's node; its changes are pushed.
        objects_world: makes the world to publish; called after the debounce, in the event loop.
        authenticate: the caller of a `grpc.aio` context, or an aborted call.
        wall_clock: seconds since the epoch.
        certificate_expires: when a node's certificate ends, seconds since the epoch, None if unknown.
        quiet, longest: of the debounce, seconds.
        limits: of each client.
    """

    def __init__(
        self,
        registry: Registry,
        objects_world: Callable[[], World],
        authenticate: Authenticate,
        wall_clock: Callable[[], float],
        certificate_expires: Callable[[Node], float | None] = lambda _: None,
        quiet: float = 0.1,
        longest: float = LONGEST,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._open = OpenStreams(limits.streams)
        self._objects_world = objects_world
        self._authenticate = authenticate
        self._wall_clock = wall_clock
        self._certificate_expires = certificate_expires
        self._pace = (quiet, longest)
        self._snapshots = Snapshots()
        self._tidy_at = _PLACES
        self._streams: dict[str, _Stream] = {}
        self._ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._debounce: Debounce | None = None

    @property
    def snapshots(self) -> Snapshots:
        """What is published."""
        return self._snapshots

    def start(self) -> None:
        """Publishes the first world and begins to watch for changes. To be called in the event loop of the server."""
        self._loop = asyncio.get_running_loop()
        self._debounce = Debounce(self._publish, self._loop.time, self._loop.call_later, *self._pace)
        self._registry.on_change(self.changed)
        self._publish()

    def stop(self) -> None:
        """Forgets a push that waits."""
        if self._debounce:
            self._debounce.cancel()
        self._loop = self._debounce = None

    def changed(self) -> None:
        """Objects or registrations changed: a new world is pushed after the debounce. Safe to call from any thread."""
        loop, debounce = self._loop, self._debounce
        if loop is not None and debounce is not None and not loop.is_closed():
            loop.call_soon_threadsafe(debounce.changed)

    def handler(self) -> Any:
        """The service as a handler for `grpc.aio.server().add_generic_rpc_handlers`. Messages are raw bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._state_of_the_world),
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._delta),
            },
        )

    def status(self) -> list[ProxyStatus]:
        """A row for each stream that has said who it is, by node id."""
        rows = [
            ProxyStatus(
                node=stream.node,
                variant=stream.variant,
                connected_since=stream.since,
                types=stream.table.status(),
                certificate_expires=self._certificate_expires(stream.node),
            )
            for stream in self._streams.values()
            if stream.node is not None
        ]
        return sorted(rows, key=lambda row: row.node.id)

    @property
    def changing(self) -> bool:
        """Whether a change waits to be published."""
        return self._debounce is not None and self._debounce.pending

    def configurations(self, chosen: Callable[[Node], bool]) -> list[Configuration]:
        """What each stream of the chosen nodes was sent and should have, by node id."""
        current = self._snapshots.current
        found = [
            Configuration(stream.node, stream.variant, stream.since, stream.table.entries(current.view(stream.node)))
            for stream in self._streams.values()
            if stream.node is not None and chosen(stream.node)
        ]
        return sorted(found, key=lambda one: (one.node.id, one.connected_since))

    def states(self, type_url: str, name: str) -> list[tuple[Node, SyncState | None]]:
        """Each stream's node, and how far it is with one name; None: it does not follow it."""
        current = self._snapshots.current
        return [
            (stream.node, stream.table.state_of(type_url, name, current.view(stream.node)))
            for stream in self._streams.values()
            if stream.node is not None
        ]

    def _publish(self) -> None:
        self._snapshots.publish(self._objects_world())
        current = self._snapshots.current
        for stream in self._streams.values():
            if stream.node is not None and stream.table.due(current.view(stream.node)):
                stream.wake.set()
        self._tidy()

    def _tidy(self) -> None:
        """Forget what was made for names that nobody follows any more, once there is much of it."""
        if self._snapshots.size > self._tidy_at:
            followed = (entry for stream in self._streams.values() for entry in stream.table.followed)
            self._snapshots.forget_all_but({place for type_url, names in followed for place in places(type_url, names)})
            self._tidy_at = 2 * self._snapshots.size + _PLACES

    async def _state_of_the_world(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._serve(Variant.STATE_OF_THE_WORLD, requests, context)

    async def _delta(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._serve(Variant.DELTA, requests, context)

    async def _serve(self, variant: Variant, requests: AsyncIterator[bytes], context: Any) -> None:
        caller = await self._authenticate(context)
        try:
            with self._open.one_more(caller.spiffe_id):
                await self._converse(variant, caller, requests, context)
        except TooMuch as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except ConfigurationError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except PermissionError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except TimeoutError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))

    async def _converse(self, variant: Variant, caller: Caller, requests: AsyncIterator[bytes], context: Any) -> None:
        stream = _Stream(f"{variant.name}-{next(self._ids)}", variant, self._wall_clock(), self._limits)
        self._streams[stream.id] = stream
        try:
            # Alone and first: an abort while the first response is on its way would send it again, which gRPC refuses.
            await context.send_initial_metadata(())
            await _first_to_end(self._read(stream, caller, requests), self._write(stream, context))
        finally:
            self._streams.pop(stream.id, None)
            self._registry.disconnect(stream.id)

    async def _read(self, stream: _Stream, caller: Caller, requests: AsyncIterator[bytes]) -> None:
        now = asyncio.get_running_loop().time
        async for data in _soon(requests, self._limits.silence):
            request = read_request(stream.variant, data, self._limits)
            self._announce(stream, caller, request)
            self._note(stream, request)
            if (seconds := stream.pace.wait(now())) > 0.0:
                await asyncio.sleep(seconds)

    def _announce(self, stream: _Stream, caller: Caller, request: Request) -> None:
        """The first request says who the node is; later ones may say it anew, as a server does once it listens."""
        if request.node is not None and request.node.id:
            node = read_node(request.node, caller)
            self._limits.check("registrations of a node", len(node.registrations), self._limits.registrations)
            stream.node = node
            self._registry.connect(stream.id, node)
        elif stream.node is None:
            raise ConfigurationError("the first request of a stream must describe its node", field="node.id")

    def _note(self, stream: _Stream, request: Request) -> None:
        stream.table.receive(request.asks)
        self._limits.check("types of a stream", stream.table.types, self._limits.types)
        self._limits.check("names of a stream", stream.table.names, self._limits.names)
        if request.asks.error is not None and stream.node is not None and stream.told < self._limits.told:
            stream.told += 1
            _log.warning("%s rejected %s: %s", stream.node.id, request.asks.type_url, request.asks.error)
        stream.wake.set()

    async def _prepare(self, stream: _Stream, node: Node) -> None:
        """Make what a client of thousands of names needs in slices: others have their turn in between."""
        questions = list(stream.table.questions(self._snapshots.current.view(node), _SLICE))
        for start in range(0, len(questions), _SLICE):
            view = self._snapshots.current.view(node)  # the newest: what is made for it goes on to the next
            for type_url, name in questions[start : start + _SLICE]:
                view.resource(type_url, name)
            await asyncio.sleep(0)

    async def _write(self, stream: _Stream, context: Any) -> None:
        while True:
            await stream.wake.wait()
            stream.wake.clear()
            while stream.node is not None:
                await self._prepare(stream, stream.node)
                response = stream.table.next_response(self._snapshots.current.view(stream.node))
                if response is None:
                    break
                # Waits while the client does not read: gRPC's flow control is the queue.
                await context.write(self._written(stream.variant, stream.node, response))

    def _written(self, variant: Variant, node: Node, response: Response) -> bytes:
        """The bytes of a response. Raises TooMuch where the client could not say why it hangs up."""
        data = write_response(variant, response)
        if node.kind == "grpc" and len(data) > self._limits.grpc_response:
            short = response.type_url.rpartition(".")[2]
            reason = (
                f"one response with {len(response.resources):,} of {short} has {len(data):,} bytes, and gRPC's clients take "
                f"{self._limits.grpc_response:,}: call fewer destinations from one channel, or fewer instances of one"
            )
            _log.error("%s cannot be served: %s", node.id, reason)
            raise TooMuch(reason)
        return data


async def _soon(requests: AsyncIterator[bytes], silence: float) -> AsyncIterator[bytes]:
    """The requests; raises TimeoutError if the first does not come within `silence` seconds."""
    try:
        async with asyncio.timeout(silence):
            first = await anext(requests)
    except TimeoutError as error:
        raise TimeoutError(f"nothing was asked for {silence:g} s") from error
    except StopAsyncIteration:
        return
    yield first
    async for data in requests:
        yield data


async def _first_to_end(*loops: Coroutine[Any, Any, None]) -> None:
    """Runs loops until one ends, then ends the others; raises what the first one raised."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
