"""A client that sends exactly the bytes it is told to, over kept connections, and takes answers as they come."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

import httptools

from tests.conformance.cases import Asked

TIMEOUT = 30.0


@dataclass(slots=True)
class Answer:
    """What came back. Status 0: the connection ended before a status line came."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    whole: bool = False


def written(asked: Asked, added: tuple[tuple[str, str], ...]) -> bytes:
    """The request on the wire."""
    lines = [f"{asked.method} {asked.path} HTTP/1.1", f"host: {asked.authority}"]
    lines += [f"{name}: {value}" for name, value in (*asked.headers, *added)]
    if asked.body is not None:
        lines.append(f"content-length: {asked.body}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + b"b" * (asked.body or 0)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.usable = True
        self._waiter: asyncio.Future[Answer] | None = None

    async def ask(self, data: bytes, method: str) -> Answer:
        self._parser = httptools.HttpResponseParser(self)
        self._method, self._answer, self._headers = method, Answer(), []
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await asyncio.wait_for(self._waiter, TIMEOUT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.usable = False
            self._done()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._done()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._headers = []
            return
        self._answer.status = self._parser.get_status_code()
        self._answer.headers = tuple(self._headers)
        if self._method == "HEAD":  # the parser cannot be told that no body follows
            self._answer.whole = True
            self.usable = False
            self._done()

    def on_body(self, data: bytes) -> None:
        self._answer.body += data

    def on_message_complete(self) -> None:
        if self._answer.status:
            self._answer.whole = True
            self.usable = self.usable and self._parser.should_keep_alive()
            self._done()

    def _done(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)


class Caller:
    """Kept connections to some addresses."""

    def __init__(self) -> None:
        self._idle: defaultdict[tuple[str, int], list[_Connection]] = defaultdict(list)

    async def ask(self, address: tuple[str, int], asked: Asked, added: tuple[tuple[str, str], ...] = ()) -> Answer:
        """A request to an address, and what came back."""
        idle = self._idle[address]
        connection = idle.pop() if idle else None
        if connection is None or not connection.usable or connection.transport.is_closing():
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, *address)
        answer = await connection.ask(written(asked, added), asked.method)
        if connection.usable:
            idle.append(connection)
        else:
            connection.transport.close()
        return answer

    def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.close()
        self._idle.clear()
