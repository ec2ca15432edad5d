"""TLS without a socket: bytes in, bytes out, for either side of a connection.

The shells (asyncio protocol, blocking socket, the server's protocol) move bytes; this layer alone talks to OpenSSL:

    wire -> `receive(data)` -> plain bytes for the application
    application -> `send(plain)` -> bytes for the wire
    after each `receive`: `pending()` holds what TLS itself has to say (handshake, alerts, key updates); send it

asyncio's own TLS costs a second protocol object, a second buffer and a handshake that an application cannot see into; owning
the layer makes the identity check possible before the first byte of a request is encrypted.
"""

from __future__ import annotations

import contextlib
import ssl

from meshlib.identity.peer import verify

_RECORD = 65_536  # OpenSSL hands out one record (16 KiB at most) per call; more room costs nothing


_SERVER_NAME = "meshlib.server_name"  # on server-side sessions


def note_server_name(session: ssl.SSLSocket | ssl.SSLObject, name: str | None) -> None:
    """Keep what the client's hello asked for (SNI): `ssl` tells it once, to the callback of the context."""
    session.__dict__[_SERVER_NAME] = name or ""


def server_name(session: ssl.SSLSocket | ssl.SSLObject) -> str:
    """What the client's hello asked for; empty: nothing, or nobody noted it."""
    return str(session.__dict__.get(_SERVER_NAME, ""))


class TlsLayer:
    """One TLS session over memory buffers.

    Args:
        context: what to prove and whom to trust; read once, so that a later rotation leaves this session alone.
        server_side: whether we answer the hello or send it.
        server_hostname: the SNI to send; client side only, empty for none.
    """

    __slots__ = ("_incoming", "_outgoing", "_session", "established", "peer_closed")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str = "") -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = None if server_side else server_hostname or None
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)
        self.established = False
        self.peer_closed = False

    def __repr__(self) -> str:
        state = "closed by peer" if self.peer_closed else "established" if self.established else "handshaking"
        return f"<TlsLayer {state} {self._session.version() or '-'}>"

    @property
    def session(self) -> ssl.SSLObject:
        """The session as `ssl` knows it: peer certificate, cipher, version."""
        return self._session

    @property
    def alpn(self) -> str:
        """The protocol both sides agreed on; empty if none."""
        return self._session.selected_alpn_protocol() or ""

    @property
    def peer_certificate(self) -> bytes:
        """The peer's leaf as DER; empty if it showed none."""
        return self._session.getpeercert(binary_form=True) or b""

    def start(self) -> bytes:
        """The client's hello. A server calls nothing: its handshake starts with the first `receive`.

        Raises:
            ssl.SSLError: the context cannot be used (no protocol version is left, ...).
        """
        self._handshake()
        return self._outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the wire and give the plain bytes in them, empty while the handshake goes on.

        Send `pending()` afterwards, also when this raises: then it holds the alert that tells the peer why.

        Raises:
            ssl.SSLError: the handshake failed or a record is broken; the connection is of no use any more.
        """
        self._incoming.write(data)
        if not self.established and not self._handshake():
            return b""
        if not self._incoming.pending:  # the usual end of a handshake; asking OpenSSL would cost an exception
            return b""
        return self._read()

    def send(self, plain: bytes | bytearray | memoryview) -> bytes:
        """Encrypt, and give what has to go on the wire, with anything pending before it. The handshake must be over.

        Raises:
            ssl.SSLError: the session is closed.
        """
        if plain:
            self._session.write(plain)
        return self._outgoing.read()

    def pending(self) -> bytes:
        """What TLS has to say by itself; empty most of the time."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> bytes:
        """Our close_notify: without it the peer cannot tell an end from a truncation. Empty if the session is beyond it."""
        if self.established:
            # WantRead: the peer's answer is not worth waiting for; anything else: there is nobody to tell.
            with contextlib.suppress(ssl.SSLError):
                self._session.unwrap()
        return self.pending()

    def _handshake(self) -> bool:
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def _read(self) -> bytes:
        chunks: list[bytes] = []
        try:
            while self._take(chunks):
                pass
        except ssl.SSLWantReadError:
            pass  # half a record; the rest comes with the next segment
        except ssl.SSLZeroReturnError:
            self.peer_closed = True
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take(self, chunks: list[bytes]) -> bool:
        """Read one record; whether there may be another."""
        chunk = self._session.read(_RECORD)
        if not chunk:
            self.peer_closed = True
            return False
        chunks.append(chunk)
        return bool(self._incoming.pending or self._session.pending())


def proven_identity(layer: TlsLayer, allowed: frozenset[str], address: str) -> str:
    """The SPIFFE id that a server proved, before the first byte of a request is encrypted for it.

    Args:
        layer: established; its context has verified the chain already.
        allowed: the ids that may answer; empty: any that the trust bundle vouches for.
        address: `ip:port` of the server, for the message.

    Raises:
        PeerRejected: it proved none of them.
    """
    return verify(layer.peer_certificate, allowed, address).spiffe_id
