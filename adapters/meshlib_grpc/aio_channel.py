"""The asyncio channel, the same shape as `_channel.py`."""

from __future__ import annotations

import asyncio
import os
import shutil
import weakref
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

import meshlib
from meshlib.config.snapshot import Absent, Destination
from meshlib.outbound.exchange import Send
from meshlib.runtime.call import Joined
from meshlib.runtime.certificates import ALPN_HTTP2
from meshlib.runtime.pool import key_of

from ._aio_callables import AioCallable, Intercepted, last_interceptors
from ._aio_calls import AioCall
from ._bridge import Bridge
from ._call import Call, Codec, Given, clock, closed
from ._convert import option
from ._lines import Line, Lines, Options, address_of, has_endpoints, line_options
from ._originals import aio_insecure_channel as insecure_channel
from ._tunnel import private_folder

_LOOK_AGAIN = 0.05


class MeshAioChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpc has no type information
    """Calls one service of the mesh, from one event loop. Nothing is made before the first call.

    Args:
        target: `reviews:9080`, `dns:///reviews:9080`.
        authority: of the target.
        options, compression: as for `grpc.aio.insecure_channel`; they hold for each connection.
        interceptors: the application's.
        mesh: None: the process's own, once it is needed.
    """

    def __init__(
        self,
        target: str,
        authority: str,
        options: Options | None = None,
        compression: grpc.Compression | None = None,
        interceptors: Sequence[Any] | None = None,
        mesh: Joined | None = None,
    ) -> None:
        self._target = target
        self._host = authority
        self._authority = option(options, "grpc.default_authority") or authority
        self._options = tuple(options or ())
        self._compression = compression
        self._interceptors = list(interceptors or ())
        self._mesh = mesh
        self._lines = Lines()
        self._folder = ""
        self._names = 0
        self._direct: Any = None
        self._intercepted: Any = None
        self._closed = False
        self._calls: weakref.WeakSet[AioCall] = weakref.WeakSet()
        self._closing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<MeshAioChannel {self._target} {self._lines!r}>"

    # grpc.aio.Channel

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.unary_unary`."""
        return self._callable(Codec(method, request_serializer, response_deserializer, (False, False)))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.unary_stream`."""
        return self._callable(Codec(method, request_serializer, response_deserializer, (False, True)))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.stream_unary`."""
        return self._callable(Codec(method, request_serializer, response_deserializer, (True, False)))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """As `grpc.aio.Channel.stream_stream`."""
        return self._callable(Codec(method, request_serializer, response_deserializer, (True, True)))

    def _callable(self, codec: Codec) -> Any:
        if not self._interceptors:
            return AioCallable(self, codec)
        if self._intercepted is None:
            # Never connected: our own interceptors come last and do not go on to it.
            chain = [*self._interceptors, *last_interceptors(self)]
            self._intercepted = insecure_channel("unix:/dev/null", interceptors=chain)
        make = getattr(self._intercepted, codec.kind)
        return Intercepted(make(codec.method, codec.serialize, codec.deserialize), codec)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY when there is somebody to send to. Connections are made by calls."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        found = self.mesh.destination(self._host)
        if isinstance(found, Absent):
            state: grpc.ChannelConnectivity = self.direct().get_state(try_to_connect)
            return state
        if found is None:
            return grpc.ChannelConnectivity.IDLE
        return grpc.ChannelConnectivity.READY if has_endpoints(found) else grpc.ChannelConnectivity.CONNECTING

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return once the state is another one."""
        await self.destination()
        while self.get_state(True) is last_observed_state:  # noqa: ASYNC110 (snapshots tell nobody that they changed)
            await asyncio.sleep(_LOOK_AGAIN)

    async def channel_ready(self) -> None:
        """Return once there is somebody to send to."""
        await self.destination()
        while (state := self.get_state(True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def close(self, grace: float | None = None) -> None:
        """Close all connections; calls under way have `grace` seconds, then they are cancelled."""
        self._closed = True
        active = [call for call in self._calls if not call.done()]
        if active and grace:
            await asyncio.wait([asyncio.ensure_future(call.code()) for call in active], timeout=grace)
        for call in active:
            call.cancel()
        for line in self._lines.drain():
            await self._shut(line)
        for channel in (self._direct, self._intercepted):
            if channel is not None:
                await channel.close(grace)
        if self._closing:
            await asyncio.wait(self._closing)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def __aenter__(self) -> MeshAioChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # for calls

    @property
    def mesh(self) -> Joined:
        """The mesh, made at the first use."""
        if self._mesh is None:
            self._mesh = meshlib.default()
        return self._mesh

    def known(self) -> Destination | Absent | None:
        """What is known of the destination without waiting."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        return self.mesh.destination(self._host)

    async def destination(self) -> Destination | None:
        """Where calls go; None: outside the mesh."""
        found = self.known()
        if found is None:
            found = await self.mesh.resolve_async(self._host)
        return None if isinstance(found, Absent) else found

    def direct(self) -> Any:
        """gRPC's own channel to the target, for what is outside the mesh."""
        if self._direct is None:
            self._direct = insecure_channel(self._target, self._options, self._compression)
        return self._direct

    def begin(self, codec: Codec, given: Given) -> Call:
        """A call."""
        return Call(self.mesh, self._authority, codec.method, given.metadata, given.timeout)

    def keep(self, call: AioCall) -> None:
        """Cancel it when the channel closes."""
        self._calls.add(call)

    async def line(self, send: Send) -> Line:
        """The line for a try; `release` it when the call has ended.

        Raises:
            NoCertificate: mutual TLS is asked for, and we hold none that is valid.
            OSError: the bridge cannot be made.
            Status: the channel is closed.
        """
        if self._closed:
            raise closed()
        tls = None
        if send.endpoint.tls and send.cluster.tls is not None:
            tls = self.mesh.certificates.client_context(ALPN_HTTP2)
        key = key_of(send.endpoint, send.cluster, tls.generation if tls else 0)
        old = self._lines.renew(tls.generation) if tls else []
        line, bridge = self._lines.take(key, clock()), None
        if line is None:
            bridge = self._bridge(send, tls) if tls else None
            if bridge is not None:
                await bridge.open()
                line = self._lines.take(key, clock())  # of a call that came here meanwhile
        if line is None:
            options = line_options(send.cluster, self._authority, self._options)
            channel = insecure_channel(address_of(send.endpoint, bridge), options, self._compression)
            line = Line(key, channel, bridge, clock())
            old += self._lines.add(line, clock())
        elif bridge is not None:
            bridge.close()
        self._close(old)
        return line

    def _bridge(self, send: Send, tls: Any) -> Bridge:
        assert send.cluster.tls is not None
        if not self._folder:
            self._folder = private_folder()
            weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._names += 1
        path = os.path.join(self._folder, str(self._names))
        to, wanted = send.endpoint.key, send.cluster.tls
        return Bridge(path, to, tls, wanted.sni, wanted.subject_alt_names, send.cluster.connect_timeout)

    def release(self, line: Line, *, broken: bool = False) -> None:
        """A call on this line ended.

        Args:
            broken: its connection could not be made: the next call makes a new one.
        """
        old = self._lines.condemn(line) if broken else []
        self._close(old + self._lines.give(line, clock()))

    def _close(self, lines: list[Line]) -> None:
        for line in lines:
            task = asyncio.get_running_loop().create_task(self._shut(line))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @staticmethod
    async def _shut(line: Line) -> None:
        await line.channel.close()
        if line.bridge is not None:
            line.bridge.close()
