"""A server with manners and without: every way to answer that a client must be ready for, in a thread of its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Received:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upstream:
    """An HTTP/1.1 server whose paths say how it behaves; see `_PATHS`.

    Args:
        name: what `/who` answers.
        context: TLS; None: plain text.
    """

    def __init__(self, name: str = "v1", context: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.context = context
        self.requests: list[Received] = []
        self.connections = 0
        self.disconnected = threading.Event()
        self.seen: Counter[str] = Counter()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Upstream:
        self._thread.start()
        self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def drop_connections(self) -> None:
        """Close what is open without a word, as a restarted peer does."""
        done = threading.Event()

        def drop() -> None:
            for writer in list(self._writers):
                writer.transport.abort()
            self._loop.call_later(0.02, done.set)

        self._loop.call_soon_threadsafe(drop)
        done.wait(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)  # refused handshakes are part of the tests
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopped.wait()
        for _ in range(4):  # connections come as far as their handshake: what asyncio accepts after `close` is never closed
            await asyncio.sleep(0)
        server.close()
        await self._end_tasks()
        for writer in self._writers:  # also those that wait for the peer's half of TLS's goodbye
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _end_tasks(self) -> None:
        """Ours, and asyncio's own that accept a connection: cancelled, they close what is still shaking hands."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: a task that is cancelled before its first step would never have known the connection.
        self.connections += 1
        self._writers.add(writer)
        task = self._loop.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.disconnected.set()
            with suppress(OSError):
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        received = _head(await reader.readuntil(b"\r\n\r\n"))
        self.requests.append(received)
        self.seen[received.path] += 1
        if received.path not in ("/early", "/stall"):
            received.body = await _body(reader, received.headers)
        answer = _PATHS.get(received.path, _echo)
        return await answer(self, received, (reader, writer)) is not False


def _head(data: bytes) -> Received:
    lines = data.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    parts = urlsplit(target)
    return Received(method, target, headers, path=parts.path, query=dict(parse_qsl(parts.query)))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body
    return await reader.readexactly(int(headers.get("content-length", 0)))


async def _send(streams: Streams, body: bytes, status: str = "200 OK", headers: str = "", method: str = "GET") -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode()
    streams[1].write(head if method == "HEAD" else head + body)
    await streams[1].drain()


async def _echo(server: Upstream, received: Received, streams: Streams) -> None:
    told = {"method": received.method, "target": received.target, "headers": received.headers, "size": len(received.body)}
    told["body"] = received.body[:200].decode("latin-1")
    await _send(streams, json.dumps(told).encode(), headers="content-type: application/json\r\n", method=received.method)


async def _who(server: Upstream, received: Received, streams: Streams) -> None:
    await _send(streams, server.name.encode())


async def _status(server: Upstream, received: Received, streams: Streams) -> None:
    times = int(received.query.get("times", "1000000"))
    code = received.query["code"] if server.seen[received.path] <= times else "200"
    body = b"" if code in ("204", "304") else b"answered"
    if code in ("204", "304"):
        streams[1].write(f"HTTP/1.1 {code} Told\r\netag: x\r\n\r\n".encode())
    else:
        await _send(streams, body, f"{code} Told")


async def _large(server: Upstream, received: Received, streams: Streams) -> None:
    size = int(received.query["size"])
    streams[1].write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
    piece = bytes(range(256)) * 256
    for start in range(0, size, len(piece)):
        streams[1].write(piece[: size - start])
        await streams[1].drain()
        server.seen["sent"] = start


async def _chunked(server: Upstream, received: Received, streams: Streams) -> None:
    writer = streams[1]
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
    for number in range(int(received.query.get("n", "3"))):
        piece = f"piece {number};".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(float(received.query.get("pause", "0")))
    writer.write(b"0\r\nx-sum: 1\r\n\r\n")


async def _gzip(server: Upstream, received: Received, streams: Streams) -> None:
    await _send(streams, gzip.compress(b"squeezed " * 100), headers="content-encoding: gzip\r\n")


async def _redirect(server: Upstream, received: Received, streams: Streams) -> None:
    await _send(streams, b"", "302 Found", f"location: {received.query['to']}\r\n")


async def _cookie(server: Upstream, received: Received, streams: Streams) -> None:
    await _send(streams, b"", headers="set-cookie: taste=sweet; Path=/\r\nset-cookie: size=big; Path=/\r\n")


async def _slow(server: Upstream, received: Received, streams: Streams) -> None:
    await asyncio.sleep(float(received.query["seconds"]))
    await _send(streams, b"late")


async def _slow_body(server: Upstream, received: Received, streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ")
    await asyncio.sleep(float(received.query["seconds"]))
    streams[1].write(b"whole")


async def _cut(server: Upstream, received: Received, streams: Streams) -> bool:
    streams[1].write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ")
    return False


async def _silent(server: Upstream, received: Received, streams: Streams) -> bool:
    return False


async def _reset(server: Upstream, received: Received, streams: Streams) -> bool:
    streams[1].transport.abort()
    return False


async def _garbage(server: Upstream, received: Received, streams: Streams) -> bool:
    streams[1].write(b"SSH-2.0-OpenSSH_9.9\r\n")
    await streams[1].drain()
    return False


async def _switch(server: Upstream, received: Received, streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhello")
    await streams[1].drain()


async def _informed(server: Upstream, received: Received, streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    await _send(streams, b"after hints", headers="x-final: yes\r\n")


async def _until_close(server: Upstream, received: Received, streams: Streams) -> bool:
    streams[1].write(b"HTTP/1.0 200 OK\r\n\r\nup to the end")
    await streams[1].drain()
    return False


async def _say_close(server: Upstream, received: Received, streams: Streams) -> bool:
    await _send(streams, b"bye", headers="connection: close\r\n")
    return False


async def _quiet_close(server: Upstream, received: Received, streams: Streams) -> bool:
    await _send(streams, b"bye")
    return False


async def _early(server: Upstream, received: Received, streams: Streams) -> bool:
    await _send(streams, b"too much", "413 Content Too Large", "connection: close\r\n")
    await asyncio.sleep(0.2)
    return False


async def _stall(server: Upstream, received: Received, streams: Streams) -> None:
    streams[1].transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a server reads, too
    await asyncio.sleep(10)


async def _twice(server: Upstream, received: Received, streams: Streams) -> None:
    streams[1].write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na" * 2)
    await streams[1].drain()


_PATHS: dict[str, Callable[[Upstream, Received, Streams], Awaitable[bool | None]]] = {
    "/who": _who,
    "/status": _status,
    "/large": _large,
    "/chunked": _chunked,
    "/gzip": _gzip,
    "/redirect": _redirect,
    "/cookie": _cookie,
    "/slow": _slow,
    "/slow-body": _slow_body,
    "/cut": _cut,
    "/silent": _silent,
    "/reset": _reset,
    "/garbage": _garbage,
    "/switch": _switch,
    "/informed": _informed,
    "/until-close": _until_close,
    "/say-close": _say_close,
    "/quiet-close": _quiet_close,
    "/early": _early,
    "/stall": _stall,
    "/twice": _twice,
}
