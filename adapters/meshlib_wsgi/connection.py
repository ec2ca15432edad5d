"""The connection's side for blocking servers: look at the first byte, refuse, or put TLS under the server's feet.

Called in the thread that will serve the connection: a slow or silent client holds up that thread, never the accepting one.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from meshlib.config.model import PeerMode
from meshlib.errors import IdentityError, MeshError
from meshlib.identity.peer import peer_from_der
from meshlib.inbound.admit import Wire, admit_connection, wire
from meshlib.runtime.tls import server_name
from meshlib_wsgi._convert import prove

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

_log = logging.getLogger("meshlib.wsgi")

PATIENCE = 15.0
"""Seconds that a client may take for its first byte, and again for each step of its handshake; as in Envoy under Istio."""


class ConnectionRefused(ConnectionResetError):
    """The connection may not go on; close it without an answer. To a server it looks like a client that left."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ECONNRESET, reason)


def admitted(connection: socket.socket, mesh: Mesh, patience: float = PATIENCE) -> socket.socket:
    """The connection to serve: `connection` itself for plain text, or a TLS socket that has taken its place.

    Args:
        connection: just accepted, nothing read. Of a TLS socket's making, it is closed or detached afterwards.
        patience: seconds.

    Raises:
        ConnectionRefused: plain text under STRICT, a failed handshake, a silent client. The caller closes `connection`.
    """
    port = mesh.inbound
    if not mesh.settings.enabled or port.mode is PeerMode.DISABLE or connection.family == socket.AF_UNIX:
        return connection
    first = _first_byte(connection, patience)
    if not first:  # the client left; the server notices by itself
        return connection
    seen = wire(first[0])
    denied = admit_connection(port, seen)
    if denied is not None:
        raise _refused(connection, denied.reason)
    return _secured(connection, mesh, patience) if seen is Wire.TLS else connection


def _first_byte(connection: socket.socket, patience: float) -> bytes:
    connection.settimeout(patience)
    try:
        return connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        raise _refused(connection, f"silent for {patience:g} s") from None
    except OSError as error:
        raise _refused(connection, str(error)) from error
    finally:
        connection.settimeout(None)


def _secured(connection: socket.socket, mesh: Mesh, patience: float) -> ssl.SSLSocket:
    address = _address(connection)
    connection.settimeout(patience)
    try:
        secured: ssl.SSLSocket = mesh.certificates.server_context().wrap_socket(connection, server_side=True)
    except (MeshError, OSError) as error:  # OSError: ssl.SSLError, TimeoutError, a reset
        raise _refused(connection, f"mutual TLS failed: {error}", address) from error
    try:
        peer = peer_from_der(secured.getpeercert(binary_form=True) or b"", address, server_name(secured))
        if not peer.secured:
            raise IdentityError("the certificate names no workload")
    except IdentityError as error:
        secured.close()
        raise _refused(connection, str(error), address) from error
    prove(secured, peer)
    secured.settimeout(None)
    return secured


def _refused(connection: socket.socket, reason: str, peer: str = "") -> ConnectionRefused:
    _log.info("closed the connection of %s: %s", peer or _address(connection), reason)
    return ConnectionRefused(reason)


def _address(connection: socket.socket) -> str:
    try:
        host, port = connection.getpeername()[:2]
    except OSError:  # gone already
        return "a client"
    return f"{host}:{port}"
