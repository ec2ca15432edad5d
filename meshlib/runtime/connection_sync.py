"""One connection to one endpoint, over a blocking socket: same shape as `connection_async`.

The socket itself never blocks; `select.poll` waits for it. So a body that is sent in pieces and a response that comes early do
not wait for each other, and every wait has its own limit.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator

from meshlib.runtime.http1 import BodyFailed, Framing, MalformedResponse, PeerClosed, ResponseHead, ResponseParser
from meshlib.runtime.keepalive import keep_alive
from meshlib.runtime.pool import Key
from meshlib.runtime.timing import Limit, remaining
from meshlib.runtime.tls import TlsLayer, proven_identity

_PIECE = 65_536
_READ = 65_536
Limits = Callable[[bool], Limit]


class SyncConnection:
    """A connection, from its first byte to its last. One thread uses it at a time.

    Args:
        key: where it leads, and as whom.
        tls: the session to be; None: plain text.

    Attributes:
        lost: called when the connection is closed; None: nobody needs to know.
    """

    def __init__(self, key: Key, tls: TlsLayer | None, sock: socket.socket) -> None:
        self.key = key
        self.principal = ""
        self.local_address = "{}:{}".format(*sock.getsockname())
        self.opened = time.monotonic()
        self.served = 0
        self.lost: Callable[[], None] | None = None
        self.parser = ResponseParser()
        self._tls = tls
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._gone = False
        self._error: Exception | None = None  # what came before it is still to be read
        self._cut = False  # the peer answered before it had the whole request

    def __repr__(self) -> str:
        state = "gone" if self._gone else "busy" if not self.parser.complete else "idle"
        return f"<SyncConnection {self.key.address}:{self.key.port} {state} {self.principal or 'plain text'}>"

    @classmethod
    def open(cls, key: Key, tls: TlsLayer | None, seconds: float | None) -> SyncConnection:
        """Connect, shake hands and check who answered.

        Args:
            seconds: for all of it; None: for ever.

        Raises:
            OSError: no connection, or no TLS (`ssl.SSLError`), or not in time (`TimeoutError`).
            PeerRejected: somebody else answered.
        """
        ends = None if seconds is None else time.monotonic() + seconds
        sock = socket.create_connection((key.address, key.port), timeout=seconds)
        connection: SyncConnection | None = None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock, key.policy)
            connection = cls(key, tls, sock)
            connection._shake(Limit(ends))
        except BaseException:
            sock.close()
            raise
        return connection

    def _shake(self, limit: Limit) -> None:
        if self._tls is None:
            return
        self._push(self._tls.start(), limit)
        while not self._tls.established:
            self._receive(limit)
        self.principal = proven_identity(self._tls, self.key.sans, f"{self.key.address}:{self.key.port}")

    def alive(self) -> bool:
        """Whether an idle connection may be used: a readable one was closed, or says what nobody asked for."""
        return not self._gone and self.parser.reusable and not self._poll.poll(0)

    @property
    def reusable(self) -> bool:
        """Whether the exchange ended so that another may follow."""
        return self.parser.complete and self.parser.reusable and not self._gone and not self._cut

    def request(
        self, method: str, head: bytes, body: bytes | Iterable[bytes] | None, framing: Framing, limit: Limits
    ) -> ResponseHead:
        """Send a request and wait for the head of its response.

        Args:
            limit: how long to wait for the next progress; asked with whether the body is still being sent.

        Raises:
            OSError: the connection broke, or the limit passed.
            MalformedResponse: the answer is not HTTP/1.1.
            BodyFailed: the caller's body raised, or does not fit its length.
        """
        parser = self.parser
        parser.begin(method)
        self.served += 1
        if body is None or (isinstance(body, bytes) and len(body) <= _PIECE):
            self._write(head + body if body else head, limit(False))
        else:
            self._write(head, limit(True))
            self._send_body(_pieces(body) if isinstance(body, bytes) else body, framing, limit)
        while parser.head is None:
            self._receive(limit(False))
        return parser.head

    def read(self, limit: Limit) -> bytes:
        """The next piece of the response's body; empty at its end.

        Raises:
            OSError: the connection broke, or the limit passed.
            MalformedResponse: the answer is not HTTP/1.1.
        """
        parser = self.parser
        while not parser.chunks and not parser.complete:
            self._receive(limit)
        return parser.take()

    def close(self) -> None:
        """Say goodbye and close."""
        if self._tls is not None and not self._gone:
            with contextlib.suppress(OSError):  # a full buffer or a closed peer: nobody is there to hear it
                self._socket.send(self._tls.close())
        self.abort()

    def abort(self) -> None:
        """Close at once, without a word: also what a forked child does with its parent's connections."""
        self._gone = True
        self._socket.close()
        if self.lost is not None:
            self.lost()

    def _send_body(self, pieces: Iterable[bytes], framing: Framing, limit: Limits) -> None:
        for data in _framed(pieces, framing):
            if self.parser.head is None and self._poll.poll(0):
                self._receive(limit(True))
            if self.parser.head is not None or not self._send_piece(data, limit):
                self._cut = True  # whoever waits for the response sees what the peer said, or why it said nothing
                return

    def _send_piece(self, data: bytes, limit: Limits) -> bool:
        try:
            self._write(data, limit(True))
        except TimeoutError:
            raise
        except OSError:
            return False
        return True

    def _write(self, data: bytes, limit: Limit) -> None:
        if data:
            self._push(data if self._tls is None else self._tls.send(data), limit)

    def _push(self, wire: bytes, limit: Limit) -> None:
        """Send, and read what comes meanwhile: a peer that answers before it has read all may be stuck otherwise."""
        view = memoryview(wire)
        while True:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._poll.modify(self._socket, select.POLLIN | select.POLLOUT)
                try:
                    events = self._await(limit)
                finally:
                    self._poll.modify(self._socket, select.POLLIN)
                if events & ~select.POLLOUT:
                    self._take()
                    self._check()
                if self.parser.head is not None:
                    self._cut = True
                    return
            if not view:
                return

    def _receive(self, limit: Limit) -> None:
        """Wait for bytes and take them."""
        self._check()
        self._await(limit)
        self._take()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _await(self, limit: Limit) -> int:
        seconds = remaining(limit.at, time.monotonic())
        events = self._poll.poll(None if seconds is None else seconds * 1000)
        if not events:
            raise limit.error()
        return events[0][1]

    def _take(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        try:
            self._absorb(data)
        except (ssl.SSLError, MalformedResponse, PeerClosed) as error:
            self._gone = True
            self._error = error

    def _absorb(self, data: bytes) -> None:
        tls = self._tls
        if data:
            plain = data if tls is None else self._decrypt(tls, data)
            if plain:
                self.parser.feed(plain)
        if not data or (tls is not None and tls.peer_closed):
            self._gone = True
            self.parser.eof(orderly=tls is None or tls.peer_closed)
            if tls is not None and not tls.established:
                raise PeerClosed("the peer closed the connection during the TLS handshake")

    def _decrypt(self, tls: TlsLayer, data: bytes) -> bytes:
        try:
            return tls.receive(data)
        finally:
            answer = tls.pending()
            if answer:
                with contextlib.suppress(OSError):  # a handshake's few bytes fit, an alert is a courtesy
                    self._socket.send(answer)


def _framed(pieces: Iterable[bytes], framing: Framing) -> Iterator[bytes]:
    """The body as it goes on the wire; what the caller's own iterator raises is marked as the caller's."""
    try:
        for piece in pieces:
            yield framing.encode(piece)
        yield framing.end()
    except Exception as error:
        raise BodyFailed("the request's body could not be sent") from error


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]
