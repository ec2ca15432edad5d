"""One connection to one endpoint, on asyncio: bytes between transport, `TlsLayer` and `ResponseParser`.

At most one coroutine waits on a connection at a time; it sleeps on one future and looks at the parser when woken. A body that
is sent in pieces has a task of its own, so that an early response is seen while the request is still going out.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, cast

from meshlib.runtime.http1 import BodyFailed, Framing, MalformedResponse, PeerClosed, ResponseHead, ResponseParser
from meshlib.runtime.keepalive import keep_alive
from meshlib.runtime.pool import Key
from meshlib.runtime.timing import Limit, remaining
from meshlib.runtime.tls import TlsLayer, proven_identity

_AT_ONCE = 65_536  # a body up to this size is written with its head; larger ones wait for the peer to take them
_BUFFERED = 262_144  # of a response's body, before we stop reading from the peer

_MOMENT = 0.001  # seconds: less than the way of a goodbye from any peer

Place = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
Limits = Callable[[bool], Limit]


class AsyncConnection(asyncio.Protocol):
    """A connection, from its first byte to its last.

    Args:
        key: where it leads, and as whom.
        tls: the session to be; None: plain text.
        lost: called when the connection is gone, or is going because of us; maybe both.
    """

    def __init__(self, key: Key, tls: TlsLayer | None, lost: Callable[[AsyncConnection], None]) -> None:
        self.key = key
        self.principal = ""
        self.local_address = ""
        self.opened = time.monotonic()
        self.served = 0
        self.parser = ResponseParser()
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._tell_lost = lost
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._drained: asyncio.Future[bool] | None = None
        self._freed = 0.0
        self._writing_paused = False
        self._reading_paused = False
        self._upload: asyncio.Task[None] | None = None
        self._upload_error: BodyFailed | None = None

    def __repr__(self) -> str:
        state = "gone" if self._error else "busy" if not self.parser.complete else "idle"
        return f"<AsyncConnection {self.key.address}:{self.key.port} {state} {self.principal or 'plain text'}>"

    @classmethod
    async def open(
        cls, key: Key, tls: TlsLayer | None, seconds: float | None, lost: Callable[[AsyncConnection], None]
    ) -> AsyncConnection:
        """Connect, shake hands and check who answered.

        Args:
            seconds: for all of it; None: for ever.

        Raises:
            OSError: no connection, or no TLS (`ssl.SSLError`), or not in time (`TimeoutError`).
            PeerRejected: somebody else answered.
        """
        connection = cls(key, tls, lost)
        try:
            async with asyncio.timeout(seconds):
                await connection._open()
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _open(self) -> None:
        self._socket = await _connected(self._loop, self.key.address, self.key.port)
        keep_alive(self._socket, self.key.policy)
        self._poll.register(self._socket, select.POLLIN)
        self.local_address = "{}:{}".format(*self._socket.getsockname())
        await self._loop.create_connection(lambda: self, sock=self._socket)
        if self._tls is not None:
            while not self._tls.established:
                await self._wait(None)
            self.principal = proven_identity(self._tls, self.key.sans, f"{self.key.address}:{self.key.port}")

    def alive(self) -> bool:
        """Whether an idle connection may be used: a readable one was closed, or says what nobody asked for.

        The event loop may not have looked at the socket since the peer closed it, so the socket itself is asked; unless it was
        in use a moment ago, when the answer could not be another.
        """
        if self._error is not None or not self.parser.reusable:
            return False
        return time.monotonic() - self._freed < _MOMENT or not self._poll.poll(0)

    @property
    def reusable(self) -> bool:
        """Whether the exchange ended so that another may follow."""
        parser = self.parser
        return parser.complete and parser.reusable and self._error is None and self._upload is None

    async def request(
        self, method: str, head: bytes, body: bytes | AsyncIterable[bytes] | None, framing: Framing, limit: Limits
    ) -> ResponseHead:
        """Send a request and wait for the head of its response.

        Args:
            limit: how long to wait for the next progress; asked with whether the body is still being sent.

        Raises:
            OSError: the connection broke, or the limit passed.
            MalformedResponse: the answer is not HTTP/1.1.
            BodyFailed: the caller's body raised, or does not fit its length.
        """
        self.parser.begin(method)
        self.served += 1
        self._check()
        if body is None or (isinstance(body, bytes) and len(body) <= _AT_ONCE):
            self._write(head + body if body else head)
        else:
            self._write(head)
            pieces = _pieces(body) if isinstance(body, bytes) else body
            self._upload = self._loop.create_task(self._send_body(pieces, framing))
        parser = self.parser
        while parser.head is None:
            self._check()
            await self._wait(limit(self._upload is not None and not self._upload.done()))
        return parser.head

    async def read(self, limit: Limit) -> bytes:
        """The next piece of the response's body; empty at its end.

        Raises:
            OSError: the connection broke, or the limit passed.
            MalformedResponse: the answer is not HTTP/1.1.
        """
        parser = self.parser
        while not parser.chunks and not parser.complete:
            self._check()
            self._resume()
            await self._wait(limit)
        return parser.take()

    def finish(self) -> None:
        """The exchange is over; what is left of the upload is of no use any more."""
        self._freed = time.monotonic()  # not the loop's, which may stand still while somebody computes
        self._resume()
        if self._upload is not None and self._upload.done() and self._upload_error is None:
            self._upload = None

    def close(self) -> None:
        """Say goodbye and close."""
        self._stop_upload()
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()  # a peer that does not read would keep what is left of a body, and the socket, for ever
        elif self._transport is not None and not self._transport.is_closing():
            if self._tls is not None:
                self._transport.write(self._tls.close())
            self._transport.close()
        self._error = self._error or PeerClosed("closed by us")
        self._tell_lost(self)

    def abort(self) -> None:
        """Close at once: what is under way is of no interest."""
        self._stop_upload()
        if self._transport is not None:
            self._transport.abort()
        elif self._socket is not None:
            self._socket.close()
        self._error = self._error or PeerClosed("aborted by us")
        self._tell_lost(self)

    def abort_from_anywhere(self) -> None:
        """As `abort`, from any thread; after the end of the loop there is nothing left to close."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.abort)

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.cancel()

    # asyncio calls these by name.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._tls is not None:
            try:
                self._transport.write(self._tls.start())
            except ssl.SSLError as error:
                self._fail(error)

    def data_received(self, data: bytes) -> None:
        try:
            plain = data if self._tls is None else self._decrypt(self._tls, data)
            if plain:
                self.parser.feed(plain)
                self._bound_buffer()
        except (ssl.SSLError, MalformedResponse) as error:
            self._fail(error)
        self._wake()
        if self._tls is not None and self._tls.peer_closed:
            self._end(orderly=True)

    def eof_received(self) -> None:
        self._end(orderly=self._tls is None or self._tls.peer_closed)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._end(orderly=self._tls is None or self._tls.peer_closed)
        self._fail(error or PeerClosed("the peer closed the connection"))
        self.resume_writing()
        self._tell_lost(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(True)

    def _decrypt(self, tls: TlsLayer, data: bytes) -> bytes:
        try:
            return tls.receive(data)
        finally:
            answer = tls.pending()
            if answer and self._transport is not None:
                self._transport.write(answer)

    def _bound_buffer(self) -> None:
        if self.parser.waiting >= _BUFFERED and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def _end(self, *, orderly: bool) -> None:
        try:
            self.parser.eof(orderly=orderly)
        except PeerClosed as error:
            self._fail(error)
        self._wake()

    def _fail(self, error: Exception) -> None:
        """The first reason is the one to tell; a response that is complete stays complete."""
        self._error = self._error or error
        self._wake()

    def _check(self) -> None:
        if self._upload_error is not None:
            raise self._upload_error
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    async def _wait(self, limit: Limit | None) -> None:
        """Sleep until something happened.

        Raises:
            OSError: as the connection broke while shaking hands, or the limit passed.
        """
        if limit is None:
            self._check()
        waiter = self._waiter = self._loop.create_future()
        seconds = None if limit is None or limit.at is None else remaining(limit.at, time.monotonic())
        timer = None if seconds is None else self._loop.call_later(seconds, _expire, waiter)
        try:
            in_time = await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if not in_time:
            assert limit is not None
            raise limit.error()

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise self._error or PeerClosed("the peer closed the connection")
        self._transport.write(data if self._tls is None else self._tls.send(data))

    async def _send_body(self, pieces: AsyncIterable[bytes], framing: Framing) -> None:
        try:
            async for piece in pieces:
                if not await self._send_piece(framing.encode(piece)):
                    return
            await self._send_piece(framing.end())
        except Exception as error:  # whatever the caller's iterator raises is the caller's to see
            failed = self._upload_error = BodyFailed("the request's body could not be sent")
            failed.__cause__ = error
            self._wake()

    async def _send_piece(self, data: bytes) -> bool:
        """Whether the peer may want more. If not, a response may be there all the same, for whoever waits for it."""
        try:
            self._write(data)
        except OSError:
            return False
        self._wake()
        if self._writing_paused:
            await self._drain()
        return True

    async def _drain(self) -> None:
        self._drained = self._loop.create_future()
        await self._drained


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _AT_ONCE):
        yield body[start : start + _AT_ONCE]


async def _connected(loop: asyncio.AbstractEventLoop, address: str, port: int) -> socket.socket:
    """A connected socket; of several addresses of a name the first that answers.

    We keep the socket, which asyncio's own `create_connection(host, port)` hides: `alive` asks it.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, place in await _places(loop, address, port):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, place)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise failure or OSError(f"{address} has no address")


async def _places(loop: asyncio.AbstractEventLoop, address: str, port: int) -> Sequence[Place]:
    """Where to connect. An address needs no resolver, whose threads would cost more than the connection."""
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM)
