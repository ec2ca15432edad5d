"""The blocking channel: every call is decided by `outbound.exchange` and sent over one of the lines to its endpoint.

`aio_channel.py` is the same shape for asyncio.

A call that blocks is driven by the caller's own thread. A future and a stream have a thread of their own until their response
is committed to, because gRPC's calls go on by themselves too, whether somebody looks at them or not.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable
from typing import Any

import grpc

import meshlib
from meshlib.config.snapshot import Absent, Destination
from meshlib.outbound.exchange import Send
from meshlib.runtime.call import Joined
from meshlib.runtime.certificates import ALPN_HTTP2
from meshlib.runtime.pool import key_of

from ._active import ActiveCall
from ._bridge import Bridge
from ._call import Call, Codec, Given, clock, closed
from ._callables import StreamResponse, UnaryRequest
from ._convert import option
from ._lines import Line, Lines, Options, address_of, has_endpoints, line_options
from ._originals import insecure_channel
from ._tunnel import Background, private_folder


class MeshChannel(grpc.Channel):  # type: ignore[misc]  # grpc has no type information
    """Calls one service of the mesh. Nothing is made before the first call, so that a process may still fork.

    Args:
        target: `reviews:9080`, `dns:///reviews:9080`.
        authority: of the target.
        options, compression: as for `grpc.insecure_channel`; they hold for each connection.
        mesh: None: the process's own, once it is needed.
    """

    def __init__(
        self,
        target: str,
        authority: str,
        options: Options | None = None,
        compression: grpc.Compression | None = None,
        mesh: Joined | None = None,
    ) -> None:
        self._target = target
        self._host = authority
        self._authority = option(options, "grpc.default_authority") or authority
        self._options = tuple(options or ())
        self._compression = compression
        self._mesh = mesh
        self._closed = False
        self._start_empty()

    def _start_empty(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._lines = Lines()
        self._background = Background("meshlib-grpc")
        self._folder = ""
        self._names = 0
        self._direct: grpc.Channel | None = None
        self._ending = threading.Event()
        self._watchers: dict[Callable[[grpc.ChannelConnectivity], None], threading.Event] = {}
        self._calls: weakref.WeakSet[ActiveCall] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<MeshChannel {self._target} {self._lines!r}>"

    # grpc.Channel

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryRequest:
        """As `grpc.Channel.unary_unary`."""
        return UnaryRequest(self, Codec(method, request_serializer, response_deserializer, (False, False)))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamResponse:
        """As `grpc.Channel.unary_stream`."""
        return StreamResponse(self, Codec(method, request_serializer, response_deserializer, (False, True)))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryRequest:
        """As `grpc.Channel.stream_unary`."""
        return UnaryRequest(self, Codec(method, request_serializer, response_deserializer, (True, False)))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamResponse:
        """As `grpc.Channel.stream_stream`."""
        return StreamResponse(self, Codec(method, request_serializer, response_deserializer, (True, True)))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False) -> None:
        """Tell about the state: READY when there is somebody to send to. Connections are made by calls."""
        stopped = self._watchers[callback] = threading.Event()
        threading.Thread(
            target=self._watch, args=(callback, bool(try_to_connect), stopped), name="meshlib-grpc-state", daemon=True
        ).start()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Tell no more."""
        stopped = self._watchers.pop(callback, None)
        if stopped is not None:
            stopped.set()

    def _watch(self, callback: Any, try_to_connect: bool, stopped: threading.Event) -> None:
        last = None
        while not stopped.is_set() and not self._closed:
            state = self._state(try_to_connect)
            if isinstance(state, grpc.Channel):
                state.subscribe(callback, try_to_connect)
                stopped.wait()
                state.unsubscribe(callback)
                return
            if state is not last:
                last = state
                callback(state)
            stopped.wait(0.05)

    def _state(self, try_to_connect: bool) -> grpc.ChannelConnectivity | grpc.Channel:
        found = self.mesh.destination(self._host)
        if found is None:
            if not try_to_connect:
                return grpc.ChannelConnectivity.IDLE
            found = self.mesh.resolve(self._host)
        if isinstance(found, Absent):
            return self.direct()
        return grpc.ChannelConnectivity.READY if has_endpoints(found) else grpc.ChannelConnectivity.CONNECTING

    def close(self) -> None:
        """Close all connections; calls under way are cancelled."""
        self._closed = True
        self._ending.set()
        for watching in list(self._watchers.values()):
            watching.set()
        for call in list(self._calls):
            call.cancel()
        with self._lock:
            lines, direct, self._direct = self._lines.drain(), self._direct, None
        self._close(lines)
        if direct is not None:
            direct.close()
        self._background.stop()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> MeshChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._pid == os.getpid() and (self._direct is not None or self._folder or len(self._lines)):
            self.close()

    # for calls

    @property
    def mesh(self) -> Joined:
        """The mesh, made at the first use."""
        if self._mesh is None:
            self._mesh = meshlib.default()
        return self._mesh

    def destination(self) -> Destination | None:
        """Where calls go; None: outside the mesh."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        if self._pid != os.getpid():  # gRPC's connections do not survive a fork; the parent's are left as they are
            _left_behind.append((self._lines, self._direct))
            self._start_empty()
        found = self.mesh.destination(self._host)
        if found is None:
            found = self.mesh.resolve(self._host)
        return None if isinstance(found, Absent) else found

    def direct(self) -> grpc.Channel:
        """gRPC's own channel to the target, for what is outside the mesh."""
        with self._lock:
            if self._direct is None:
                self._direct = insecure_channel(self._target, self._options, self._compression)
            return self._direct

    def begin(self, codec: Codec, given: Given) -> Call:
        """A call."""
        return Call(self.mesh, self._authority, codec.method, given.metadata, given.timeout)

    def keep(self, call: ActiveCall) -> None:
        """Cancel it when the channel closes."""
        self._calls.add(call)

    def line(self, send: Send) -> Line:
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
        with self._lock:
            old = self._lines.renew(tls.generation) if tls else []
            line = self._lines.take(key, clock())
            if line is None:
                bridge = self._bridge(send, tls) if tls else None
                options = line_options(send.cluster, self._authority, self._options)
                channel = insecure_channel(address_of(send.endpoint, bridge), options, self._compression)
                line = Line(key, channel, bridge, clock())
                old += self._lines.add(line, clock())
        self._close(old)
        return line

    def _bridge(self, send: Send, tls: Any) -> Bridge:
        assert send.cluster.tls is not None
        if not self._folder:
            self._folder = private_folder()
        self._names += 1
        path = os.path.join(self._folder, str(self._names))
        to, wanted = send.endpoint.key, send.cluster.tls
        bridge = Bridge(path, to, tls, wanted.sni, wanted.subject_alt_names, send.cluster.connect_timeout)
        self._background.run(bridge.open())
        return bridge

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Status if the channel is closed."""
        if self._ending.wait(seconds):
            raise closed()

    def release(self, line: Line, *, broken: bool = False) -> None:
        """A call on this line ended.

        Args:
            broken: its connection could not be made: the next call makes a new one.
        """
        with self._lock:
            old = self._lines.condemn(line) if broken else []
            old += self._lines.give(line, clock())
        self._close(old)

    def _close(self, lines: list[Line]) -> None:
        for line in lines:
            line.channel.close()
            if line.bridge is not None:
                self._background.call(line.bridge.close)


_left_behind: list[object] = []
