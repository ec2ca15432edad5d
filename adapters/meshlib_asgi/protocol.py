"""The connection's side under uvicorn: mutual TLS and plain text on one port, told apart by the first byte.

    accepted --> FirstByte --0x16--> TlsWire + TlsTransport --> MeshProtocol reads plain bytes, the peer is proved
                           --else--> MeshProtocol reads the socket, the peer is an address; refused if STRICT
                           --time--> cut off

From its second step on a connection is uvicorn's own: parsing, keep-alive, pipelining, limits and shutdown are inherited.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import socket
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState

import meshlib
from meshlib.config.model import PeerMode
from meshlib.errors import IdentityError, MeshError
from meshlib.facts import Peer
from meshlib.identity.peer import peer_from_der
from meshlib.inbound.admit import Wire, admit_connection, wire
from meshlib.runtime.tls import TlsLayer, server_name
from meshlib_asgi import announce
from meshlib_asgi._convert import GONE, PEER, TARGET, App, Receive, Scope, Send, address
from meshlib_asgi.first_byte import FirstByte
from meshlib_asgi.tls_extension import tls_extension
from meshlib_asgi.tls_transport import TlsTransport, TlsWire

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

_log = logging.getLogger("meshlib.asgi")


class MeshProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, behind the mesh's door: `uvicorn app:app --http meshlib_asgi:MeshProtocol`.

    Every request's `scope["extensions"]` holds `meshlib.peer` (`facts.Peer`) and, over mutual TLS, `tls` with the keys of
    ASGI's TLS extension. A server whose own `ssl_*` options are set is left alone: its TLS is not the mesh's.

    Attributes:
        mesh: the mesh to serve; None: `meshlib.default()`. Set it in a subclass, or with `serving`.
        patience: seconds that a client may take for its first byte, and again for its handshake.
    """

    mesh: ClassVar[Mesh | None] = None
    patience: ClassVar[float] = 15.0  # Envoy's transport socket and listener filter time-outs as Istio sets them

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._mesh = self.current_mesh()
        self._extensions: dict[str, Any] = {}

    @classmethod
    def serving(cls, mesh: Mesh) -> type[MeshProtocol]:
        """This protocol for a mesh of your own: `uvicorn.run(app, http=MeshProtocol.serving(mesh))`."""
        return type(cls.__name__, (cls,), {"mesh": mesh})

    @classmethod
    def current_mesh(cls) -> Mesh:
        """The mesh that this protocol serves."""
        return cls.mesh or meshlib.default()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Look at the first byte before anything else, unless there is nothing to tell apart."""
        if self._plain_only(transport):
            self._begin(transport, Peer(address=_address(transport)))
            return
        self.connections.add(self)  # a server that shuts down closes waiting connections too
        self.transport = transport
        FirstByte(transport, self._on_first, self.connection_lost, limit=self.patience)

    def on_message_begin(self) -> None:
        """A request starts: its scope tells who is on the other side."""
        super().on_message_begin()
        self.scope["extensions"] = dict(self._extensions)

    def on_headers_complete(self) -> None:
        """A request is there: while the server is about to end, its response is the connection's last."""
        self.scope["extensions"][TARGET] = self.url  # type: ignore[assignment]  # uvicorn types what it knows
        super().on_headers_complete()
        if self._mesh.withdrawn and self.cycle is not None:
            self.cycle.keep_alive = False

    def handle_websocket_upgrade(self) -> None:
        """A WebSocket begins: uvicorn's protocols for it make scopes of their own, which know nothing of the peer."""
        self.config, app = copy.copy(self.config), self.config.loaded_app
        self.config.loaded_app = _telling(app, {**self._extensions, TARGET: self.url})
        super().handle_websocket_upgrade()

    def _plain_only(self, transport: asyncio.Transport) -> bool:
        if self.config.is_ssl or not self._mesh.settings.enabled or self._mesh.inbound.mode is PeerMode.DISABLE:
            return True
        listener = transport.get_extra_info("socket")
        return listener is not None and listener.family == socket.AF_UNIX  # mutual TLS modes are about ports

    def _on_first(self, data: bytes) -> None:
        transport = self.transport
        seen = wire(data[0])
        denied = admit_connection(self._mesh.inbound, seen)
        if denied is not None:
            _log.info("closed the connection of %s: %s", _address(transport), denied.reason)
            transport.abort()
        elif seen is Wire.TLS:
            self._secure(transport, data)
        else:
            transport.set_protocol(self)
            self._begin(transport, Peer(address=_address(transport)))
            self.data_received(data)

    def _secure(self, raw: asyncio.Transport, hello: bytes) -> None:
        try:
            layer = TlsLayer(self._mesh.certificates.server_context(), server_side=True)
        except MeshError as error:  # no certificate yet: the client's mesh tries another endpoint
            self._on_tls_failed(str(error))
            raw.abort()
            return
        transport = TlsTransport(raw, layer, self)
        pipe = TlsWire(raw, transport, lambda: self._on_secured(transport), self._on_tls_failed, limit=self.patience)
        pipe.data_received(hello)

    def _on_secured(self, transport: TlsTransport) -> None:
        try:
            peer = peer_from_der(transport.layer.peer_certificate, _address(transport), server_name(transport.layer.session))
            if not peer.secured:
                raise IdentityError("the certificate names no workload")
        except IdentityError as error:
            self._on_tls_failed(str(error))
            transport.abort()
            return
        self._extensions["tls"] = tls_extension(transport.layer.session)
        self._begin(transport, peer)

    def _begin(self, transport: asyncio.Transport, peer: Peer) -> None:
        self._extensions[PEER] = peer
        self._extensions[GONE] = transport.is_closing
        super().connection_made(transport)
        if peer.secured:  # connected, proved, silent: uvicorn's own timer ends it, and its first byte stops the timer
            self.timeout_keep_alive_task = self.loop.call_later(self.patience, self.timeout_keep_alive_handler)

    def _on_tls_failed(self, reason: str) -> None:
        _log.info("mutual TLS with %s failed: %s", _address(self.transport), reason)


def _telling(app: App, extensions: dict[str, Any]) -> App:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": {**scope.get("extensions", {}), **extensions}}, receive, send)

    return told


def _address(transport: asyncio.BaseTransport) -> str:
    pair = transport.get_extra_info("peername")
    return address(pair) if isinstance(pair, tuple) else ""


# uvicorn has no hook for "the socket listens now", and the first connection would be too late: nobody connects to a service
# that is not registered. Importing this class is how a server joins, also in each of uvicorn's and gunicorn's workers.
announce.watch(Server, MeshProtocol)
