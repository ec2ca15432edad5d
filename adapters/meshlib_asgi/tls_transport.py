"""TLS between a socket's transport and a protocol that knows nothing of it.

    wire --> raw transport --> TlsWire --(plain bytes)--> application's protocol
    wire <-- raw transport <-- TlsTransport <--(plain bytes)-- application's protocol

asyncio's own `start_tls` needs a task and a second buffer and cannot be given bytes that were read already; this pair takes
over in the middle of a read, in the same callback. Flow control passes through both ways: a full socket pauses the
application, an application that is behind pauses the socket.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from meshlib.runtime.tls import TlsLayer


class TlsTransport(asyncio.Transport):
    """What the application's protocol writes to.

    Args:
        raw: the socket's transport.
        layer: the session; its handshake is driven by `TlsWire`.
        protocol: gets the plain bytes; may be replaced, as a WebSocket upgrade does.

    `sslcontext` is not among the extra information: servers derive the scheme `https` from it, and a redirect to
    `https://reviews:9080/` would leave the mesh. As behind a sidecar, mutual TLS is the transport's matter; ask `ssl_object`.
    """

    def __init__(self, raw: asyncio.Transport, layer: TlsLayer, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._raw = raw
        self._layer = layer
        self._protocol = protocol
        self._closing = False

    def __repr__(self) -> str:
        return f"<TlsTransport {self._layer!r}{' closing' if self._closing else ''}>"

    @property
    def layer(self) -> TlsLayer:
        """The session, for those who ask who the peer is."""
        return self._layer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The socket's, and `ssl_object`."""
        if name == "ssl_object":
            return self._layer.session
        return self._raw.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who gets the plain bytes."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on, plain bytes go to `protocol`."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    @property
    def protocol(self) -> asyncio.Protocol:
        """As `get_protocol`, with the narrower type."""
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; buffered by the socket's transport, whose limits call `pause_writing`."""
        if self.is_closing():
            return
        try:
            self._raw.write(self._layer.send(data))
        except ssl.SSLError:  # the session is broken: nothing that the peer could read can be sent
            self.abort()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """One write: one record is cheaper than several."""
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Whether `close` was called, or the connection is lost."""
        return self._closing or self._raw.is_closing()

    def close(self) -> None:
        """Send what is buffered, say goodbye (close_notify) and close."""
        if self._closing:
            return
        self._closing = True
        if not self._raw.is_closing():
            farewell = self._layer.close()
            if farewell:
                self._raw.write(farewell)
        self._raw.close()

    def abort(self) -> None:
        """Close at once; buffered bytes are lost."""
        self._closing = True
        self._raw.abort()

    def can_write_eof(self) -> bool:
        """No: TLS before 1.3 has no half-close, and servers do not use it."""
        return False

    def write_eof(self) -> None:
        """Not possible, see `can_write_eof`."""
        raise NotImplementedError("TLS connections have no half-close")

    def pause_reading(self) -> None:
        """The application is behind."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """The application caught up."""
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        """Whether bytes are wanted."""
        return self._raw.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes, counted after encryption."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the socket, encrypted."""
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high mark, bytes after encryption."""
        return self._raw.get_write_buffer_limits()


class TlsWire(asyncio.Protocol):
    """What the socket's transport talks to, once the first byte said TLS.

    Args:
        raw: the socket's transport; `set_protocol` is called on it here.
        transport: the application's side of the same connection.
        on_established: called once, when the handshake is over; may close the transport.
        on_failed: gets the reason if TLS fails; the connection is being closed already.
        limit: seconds for the handshake.
    """

    def __init__(
        self,
        raw: asyncio.Transport,
        transport: TlsTransport,
        on_established: Callable[[], None],
        on_failed: Callable[[str], None],
        *,
        limit: float,
    ) -> None:
        self._raw = raw
        self._transport = transport
        self._layer = transport.layer
        self._on_established = on_established
        self._on_failed = on_failed
        self._connected = False
        self._timer = asyncio.get_running_loop().call_later(limit, self._too_slow)
        raw.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the wire: the handshake's, or the application's."""
        if self._transport.is_closing():
            return
        try:
            plain = self._layer.receive(data)
        except ssl.SSLError as error:
            self._fail(error.reason or str(error))
            return
        self._flush()
        if not self._connected and self._layer.established:
            self._connect()
        if plain and not self._transport.is_closing():
            self._transport.protocol.data_received(plain)
        if self._layer.peer_closed:
            self._end()

    def eof_received(self) -> None:
        """The socket's end of file: as good as close_notify for HTTP/1.1, which frames its messages itself."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._timer.cancel()
        self._transport.protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket is full."""
        if self._connected:
            self._transport.protocol.pause_writing()

    def resume_writing(self) -> None:
        """The socket drained."""
        if self._connected:
            self._transport.protocol.resume_writing()

    def _connect(self) -> None:
        self._timer.cancel()
        self._connected = True
        self._on_established()

    def _end(self) -> None:
        """The peer sends no more. A protocol that answers "keep open" may go on writing, as with a plain transport."""
        if self._connected and not self._transport.is_closing() and self._transport.protocol.eof_received():
            return
        self._transport.close()

    def _flush(self) -> None:
        said = self._layer.pending()
        if said:
            self._raw.write(said)

    def _too_slow(self) -> None:
        self._on_failed("the handshake took too long")
        self._transport.abort()

    def _fail(self, reason: str) -> None:
        self._flush()  # the alert that tells the peer why
        self._on_failed(reason)
        self._raw.close()
