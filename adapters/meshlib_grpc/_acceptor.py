"""The server's side: one port for mutual TLS and plain text, in front of a gRPC server on a private Unix socket.

The first byte of a connection tells which it is; what is not allowed is closed without an answer, as in Istio. A peer that
proved its identity is known here and not to the server: each connection to the server's socket is made from a socket with a
name of its own, which the server shows as `context.peer()`; the name leads back to the peer.

Rule 1: server and connections are in a folder of ours with mode 0700: nobody else can come in by the back door. A process of
the same user that does has no name that leads to a peer, so it counts as plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakKeyDictionary

from meshlib.config.model import PeerMode
from meshlib.errors import IdentityError, MeshError
from meshlib.facts import Peer
from meshlib.identity.peer import peer_from_der
from meshlib.inbound.admit import Wire, admit_connection, wire
from meshlib.runtime.certificates import ALPN_HTTP2
from meshlib.runtime.tls import TlsLayer, server_name

from ._tunnel import End, private_folder

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

_log = logging.getLogger("meshlib.grpc")

PATIENCE = 15.0
"""Seconds that a client may take for its first byte, and again for its handshake; as in Envoy under Istio."""


class Sides(NamedTuple):
    """A connection as the network knows it.

    Args:
        local_address: `ip:port` it came in at.
    """

    peer: Peer
    local_address: str = ""


class Known:
    """Who is behind the names that gRPC servers see as their peers."""

    def __init__(self) -> None:
        self._sides: dict[str, Sides] = {}
        self._folders: set[str] = set()

    def add(self, name: str, sides: Sides) -> None:
        """Somebody connected."""
        self._folders.add(os.path.dirname(name))
        self._sides[name] = sides

    def discard(self, name: str) -> None:
        """The connection is gone."""
        self._sides.pop(name, None)

    def find(self, name: str) -> Sides | None:
        """Who it is; None: somebody who is none of ours.

        Raises:
            IdentityError: it was one of ours, and the connection is gone: nobody can say any more who it was.
        """
        sides = self._sides.get(name)
        if sides is None and os.path.dirname(name) in self._folders:
            raise IdentityError("the connection is gone")
        return sides


_known: WeakKeyDictionary[Mesh, Known] = WeakKeyDictionary()


def peers_of(mesh: Mesh) -> Known:
    """The peers of a mesh's servers; kept beside the mesh and freed with it."""
    return _known.setdefault(mesh, Known())


class Acceptor:
    """Accepts for one gRPC server, on one or more ports. Belongs to one event loop, but for `bind` and the reading of `ports`.

    Args:
        patience: seconds, see PATIENCE.

    Attributes:
        listening: host and port of each port that was taken.
        target: where the server listens.
    """

    def __init__(self, mesh: Mesh, *, patience: float = PATIENCE) -> None:
        self._mesh = mesh
        self._patience = patience
        self._peers = peers_of(mesh)
        self._folder = private_folder()
        self._names = itertools.count(1)
        self._listeners: list[socket.socket] = []
        self.listening: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[End | _FirstByte] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_idle: Callable[[], None] | None = None
        self.target = os.path.join(self._folder, "server")

    def __repr__(self) -> str:
        return f"<Acceptor {self.listening} {len(self._connections)} connections>"

    def bind(self, address: str, *, reuse_port: bool = True) -> int:
        """Take a port; connections wait until `open`.

        Args:
            address: `host:port` as for `add_insecure_port`; port 0: a free one.
            reuse_port: as gRPC's servers do by default: several processes may serve one port.

        Raises:
            RuntimeError: the port cannot be had; as gRPC's own servers.
        """
        host, port = host_and_port(address)
        try:
            listener = _listener(host, port, reuse_port)
        except OSError as error:
            raise RuntimeError(f"Failed to bind to address {address}: {error}") from error
        self._listeners.append(listener)
        self.listening.append(listener.getsockname()[:2])
        return self.listening[-1][1]

    async def open(self) -> None:
        """Accept from now on: the server listens on `target`."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._servers.append(await loop.create_server(self._arrived, sock=listener))

    def drain(self, then: Callable[[], None] | None = None) -> None:
        """Accept no more. Connections end when the server closes them.

        Args:
            then: called once none is left; the private folder is gone then.
        """
        self._on_idle = then or _nothing
        for server in self._servers:
            server.close()
        if not self._servers:
            for listener in self._listeners:
                listener.close()
        self._if_idle()

    def _if_idle(self) -> None:
        if self._on_idle is not None and not self._connections and not self._tasks:
            done, self._on_idle = self._on_idle, None
            shutil.rmtree(self._folder, ignore_errors=True)
            done()

    def _arrived(self) -> asyncio.Protocol:
        if self._mesh.inbound.mode is PeerMode.DISABLE or not self._mesh.settings.enabled:
            return End(None, self._serve_plain, self._closed)
        return _FirstByte(self._on_first, self._connections, self._if_idle, limit=self._patience)

    def _on_first(self, transport: asyncio.Transport, data: bytes) -> None:
        seen = wire(data[0])
        denied = admit_connection(self._mesh.inbound, seen)
        if denied is not None:
            _log.info("closed the connection of %s: %s", _address(transport), denied.reason)
            transport.abort()
        elif seen is Wire.TLS:
            self._secure(transport, data)
        else:
            self._hand_over(transport, End(None, self._serve_plain, self._closed), data)

    def _secure(self, transport: asyncio.Transport, hello: bytes) -> None:
        try:
            layer = TlsLayer(self._mesh.certificates.server_context(ALPN_HTTP2), server_side=True)
        except MeshError as error:  # no certificate yet: the client's mesh tries another endpoint
            _refused(transport, error)
            return
        limit = asyncio.get_running_loop().call_later(self._patience, _too_slow, transport)

        def established(end: End) -> None:
            limit.cancel()
            try:
                peer = peer_from_der(layer.peer_certificate, _address(transport), server_name(layer.session))
                if not peer.secured:
                    raise IdentityError("the certificate names no workload")
            except IdentityError as error:
                _refused(transport, error)
                return
            self._serve(end, peer)

        def closed(end: End, error: Exception | None) -> None:
            limit.cancel()
            if error is not None and not layer.established:
                _refused(transport, error)
            self._closed(end, error)

        self._hand_over(transport, End(layer, established, closed), hello)

    def _hand_over(self, transport: asyncio.Transport, end: End, data: bytes) -> None:
        self._connections.add(end)
        transport.set_protocol(end)
        end.connection_made(transport)
        end.data_received(data)

    def _serve_plain(self, far: End) -> None:
        self._serve(far, Peer(address=_address(far.transport)))

    def _serve(self, far: End, peer: Peer) -> None:
        self._connections.add(far)
        task = asyncio.get_running_loop().create_task(self._connect(far, peer))
        self._tasks.add(task)
        task.add_done_callback(self._arrived_there)

    def _arrived_there(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._if_idle()

    async def _connect(self, far: End, peer: Peer) -> None:
        """Lead a connection to the server, from a socket whose name stands for its peer."""
        loop = asyncio.get_running_loop()
        path = os.path.join(self._folder, str(next(self._names)))
        name = f"unix:{path}"
        self._peers.add(name, Sides(peer, _address(far.transport, "sockname")))
        near = socket.socket(socket.AF_UNIX)
        near.setblocking(False)
        try:
            near.bind(path)
            await loop.sock_connect(near, self.target)
            _, end = await loop.create_unix_connection(lambda: End(None, _ignore, partial(self._left, name)), sock=near)
        except OSError as error:
            _log.warning("the gRPC server does not take the connection of %s: %s", peer.address, error)
            near.close()
            self._forget(name)
            far.abort()
            return
        self._connections.add(end)
        if far.transport.is_closing():
            end.abort()
        else:
            far.join(end)

    def _left(self, name: str, end: End, error: Exception | None) -> None:
        self._forget(name)
        self._closed(end, error)

    def _closed(self, end: End, error: Exception | None) -> None:
        self._connections.discard(end)
        self._if_idle()

    def _forget(self, name: str) -> None:
        self._peers.discard(name)
        with contextlib.suppress(OSError):
            os.unlink(name.removeprefix("unix:"))


class _FirstByte(asyncio.Protocol):
    """Waits for the first bytes of a connection, then somebody else takes over."""

    def __init__(
        self,
        on_data: Callable[[asyncio.Transport, bytes], None],
        waiting: set[End | _FirstByte],
        on_gone: Callable[[], None],
        *,
        limit: float,
    ) -> None:
        self._on_data = on_data
        self._waiting = waiting
        self._on_gone = on_gone
        self._limit = limit
        self._timer: asyncio.TimerHandle
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(self._limit, self._transport.abort)
        self._waiting.add(self)

    def data_received(self, data: bytes) -> None:
        self._timer.cancel()
        self._waiting.discard(self)
        self._on_data(self._transport, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._waiting.discard(self)
        self._on_gone()


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of `host:port`, `[::1]:9080`, `*:9080`.

    Raises:
        RuntimeError: there is no port in it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise RuntimeError(f"Failed to bind to address {address}: write host:port, as in [::]:9080")
    return host.strip("[]"), int(port)


def _listener(host: str, port: int, reuse_port: bool) -> socket.socket:
    shared = reuse_port and port != 0 and hasattr(socket, "SO_REUSEPORT")
    if host in ("::", "*", "", "0.0.0.0"):  # noqa: S104 (gRPC takes IPv4 and IPv6 for any of them)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=shared, backlog=512
            )
        return socket.create_server(("", port), reuse_port=shared, backlog=512)
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(place[:2], family=family, reuse_port=shared, backlog=512)


def _refused(transport: asyncio.Transport, error: Exception) -> None:
    _log.info("mutual TLS with %s failed: %s", _address(transport), error)
    transport.abort()


def _too_slow(transport: asyncio.Transport) -> None:
    _refused(transport, TimeoutError("the handshake took too long"))


def _address(transport: asyncio.BaseTransport, whose: str = "peername") -> str:
    pair = transport.get_extra_info(whose)
    if not isinstance(pair, tuple):
        return ""
    host = str(pair[0]).removeprefix("::ffff:")  # an IPv4 client of a socket for both
    return f"[{host}]:{pair[1]}" if ":" in host else f"{host}:{pair[1]}"


def _ignore(end: End) -> None:
    pass


def _nothing() -> None:
    pass
