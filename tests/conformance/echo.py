"""Upstreams that do as a request says and remember what arrived: one process, many ports, each an endpoint.

A request names itself in `x-case`; `x-script` says what happens to its first, second, ... try; the last word holds for all
that follow:

    200                          an answer with this status
    503+grpc-status: 14+x-a: b   with headers
    200~chunked  200~eof         body in chunks, or up to the end of the connection
    hang                         no answer for HANG seconds, then 200
    close  reset  garbage  cut   the connection ends (FIN, RST), is not HTTP, or ends in the middle of the body

GET /arrivals on the first port gives and forgets what arrived.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import uvloop

HANG = 1.5
"""Seconds; far above every timeout in a case that is meant to pass, far below those that are not."""

CASE, SCRIPT, ATTEMPT = "x-case", "x-script", "x-envoy-attempt-count"
BODY = b"hello"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A try as it came over the wire. Header names as sent; values without surrounding blanks."""

    port: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: int

    def values(self, name: str) -> list[str]:
        """The values of a header, one for each line."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(slots=True)
class Memory:
    """What arrived, by case, and how many tries each case made."""

    arrivals: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    tries: Counter[str] = field(default_factory=Counter)

    def forget(self) -> bytes:
        """Everything as JSON, once."""
        told = json.dumps(self.arrivals).encode()
        self.arrivals.clear()
        self.tries.clear()
        return told


class Conversation(asyncio.Protocol):
    """One connection to one endpoint."""

    def __init__(self, port: int, memory: Memory) -> None:
        self._port = port
        self._memory = memory
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserError as error:
            self._memory.arrivals["malformed"].append([self._port, str(error), repr(data[:300]), [], 0])
            self._transport.abort()

    def on_message_begin(self) -> None:
        self._target, self._headers, self._size = b"", [], 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))

    def on_body(self, data: bytes) -> None:
        self._size += len(data)

    def on_message_complete(self) -> None:
        method, target = self._parser.get_method().decode(), self._target.decode("latin-1")
        if target == "/arrivals":
            self._answer("200", method, self._memory.forget())
            return
        given = {name.lower(): value for name, value in self._headers}
        case = given.get(CASE, "")
        self._memory.arrivals[case].append([self._port, method, target, self._headers, self._size])
        self._memory.tries[case] += 1
        # A request that is sent again because its connection was dead is the same try: it gets the same answer.
        attempt = int(given.get(ATTEMPT, self._memory.tries[case]))
        words = given.get(SCRIPT, "200").split("|")
        self._act(words[min(attempt, len(words)) - 1], method)

    def _act(self, word: str, method: str) -> None:
        if word == "hang":
            asyncio.get_running_loop().call_later(HANG, self._answer, "200", method)
        elif word == "close":
            self._transport.close()
        elif word == "reset":
            self._reset()
        elif word == "garbage":
            self._transport.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        elif word == "cut":
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf ")
            self._transport.close()
        else:
            self._answer(word, method)

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _answer(self, word: str, method: str, body: bytes = BODY) -> None:
        if self._transport.is_closing():
            return
        first, *lines = word.split("+")
        status, _, mode = first.partition("~")
        if status in ("204", "304"):
            lines, body, mode = lines, b"", "none"
        framed, payload = _FRAMES[mode](body)
        if mode == "eof" and method == "HEAD":
            # Without a body nothing tells that the connection ends: who uses it again at once, or not, would decide by chance.
            framed = ["connection: close"]
        head = "\r\n".join([f"HTTP/1.1 {status} Told", *lines, *framed, "\r\n"]).encode("latin-1")
        self._transport.write(head if method == "HEAD" else head + payload)
        if mode == "eof":
            self._transport.close()


_FRAMES = {
    "": lambda body: ([f"content-length: {len(body)}"], body),
    "none": lambda body: ([], b""),
    "chunked": lambda body: (["transfer-encoding: chunked"], b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    "eof": lambda body: ([], body),
}


async def _serve(count: int) -> None:
    loop, memory = asyncio.get_running_loop(), Memory()
    ports = []
    for _ in range(count):
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        port = sock.getsockname()[1]
        await loop.create_server(lambda port=port: Conversation(port, memory), sock=sock)
        ports.append(port)
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # whoever started it ends it by closing


class Echo:
    """The process, seen from outside.

    Args:
        ports: of the endpoints; the first one also tells what arrived.
    """

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports

    def arrivals(self) -> dict[str, list[Arrival]]:
        """What arrived since the last call, by case, in order."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/arrivals", timeout=30) as answer:
            told: dict[str, list[Any]] = json.load(answer)
        return {
            case: [
                Arrival(port, method, target, tuple(map(tuple, headers)), size)
                for port, method, target, headers, size in tries
            ]
            for case, tries in told.items()
        }


@contextmanager
def running(count: int) -> Iterator[Echo]:
    """The process with this many endpoints."""
    command = [sys.executable, "-m", "tests.conformance.echo", str(count)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Echo(json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
