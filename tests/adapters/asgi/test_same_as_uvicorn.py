"""Behind the mesh's door it is uvicorn: the same bytes get the same answer, in plain text and over mutual TLS.

Where two servers disagree about where a request ends, requests can be smuggled. MeshProtocol adds no opinion of its own.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from meshlib_asgi import MeshProtocol
from tests.support.pki import Authority
from tests.support.server_folder import mesh_in
from tests.support.server_thread import serving, talk

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: a\r\n"
REQUESTS = {
    "plain get": b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
    "pipelined": b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + SMUGGLED,
    "http/1.0": b"GET /first HTTP/1.0\r\n\r\n" + SMUGGLED,
    "cl": POST + b"Content-Length: 5\r\n\r\nhello" + SMUGGLED,
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "cl.te": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + SMUGGLED,
    "te.cl": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n24\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
    "te.te": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te unknown": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te space before colon": POST + b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "te folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "cl twice, equal": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + SMUGGLED,
    "cl twice, different": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello" + SMUGGLED,
    "cl list": POST + b"Content-Length: 5, 5\r\n\r\nhello" + SMUGGLED,
    "cl signed": POST + b"Content-Length: +5\r\n\r\nhello" + SMUGGLED,
    "cl negative": POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED,
    "cl hex": POST + b"Content-Length: 0x5\r\n\r\nhello" + SMUGGLED,
    "cl huge": POST + b"Content-Length: 99999999999999999999\r\n\r\nhello" + SMUGGLED,
    "chunk size huge": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx" + SMUGGLED,
    "chunk size with space": POST + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "chunk extension": POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "chunk without crlf": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n" + SMUGGLED,
    "trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    "bare lf": b"GET /first HTTP/1.1\nHost: a\n\n" + SMUGGLED,
    "bare cr": b"GET /first HTTP/1.1\r\nHost: a\rX: b\r\n\r\n" + SMUGGLED,
    "null in header": b"GET /first HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n" + SMUGGLED,
    "no host": b"GET /first HTTP/1.1\r\n\r\n" + SMUGGLED,
    "upgrade h2c": b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED,
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "expect": POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello" + SMUGGLED,
    "close": b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + SMUGGLED,
    "noise": bytes(range(23, 120)),
    "empty lines": b"\r\n\r\nGET /first HTTP/1.1\r\nHost: a\r\n\r\n",
}


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what arrived: method, path, body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    said = f"{scope['method']} {scope['path']} {body!r} {sorted(scope['headers'])!r}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


@dataclass(frozen=True)
class Ports:
    plain: int
    meshed: int
    authority: Authority

    def mutual_tls(self) -> ssl.SSLSocket:
        context = self.authority.client_context(self.authority.issue("productpage"))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.meshed)))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    mesh, authority = mesh_in(tmp_path_factory.mktemp("mesh"))
    with serving(tell, HttpToolsProtocol) as plain, serving(tell, MeshProtocol.serving(mesh)) as meshed:
        yield Ports(plain, meshed, authority)


def outcome(connection: socket.socket, pieces: list[bytes]) -> bytes:
    with connection:
        return re.sub(rb"\r\ndate: [^\r]*", b"", talk(connection, pieces))


def three_outcomes(ports: Ports, pieces: list[bytes]) -> list[bytes]:
    connections = [
        socket.create_connection(("127.0.0.1", ports.plain)),
        socket.create_connection(("127.0.0.1", ports.meshed)),
        ports.mutual_tls(),
    ]
    with ThreadPoolExecutor(3) as pool:  # at once: each waits for silence
        return list(pool.map(outcome, connections, [pieces] * 3))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bytes_get_the_same_answer(ports: Ports, name: str) -> None:
    """Whatever a client may send: uvicorn alone, MeshProtocol in plain text and over mutual TLS answer alike."""
    uvicorn, plain, tls = three_outcomes(ports, [REQUESTS[name]])
    assert plain == uvicorn
    assert tls.removesuffix(b"<reset>") == uvicorn.removesuffix(b"<reset>")  # TLS says goodbye before it closes
    assert uvicorn, "the case says nothing if nobody answers"


BLANKS = [b"", b" ", b"  ", b"\t", b"\x0b", b"\x0c", b"\x00", b"\r", b"\r\n ", b"\xa0"]
LENGTHS = [
    b"0",
    b"5",
    b"4",
    b"6",
    b"05",
    b"+5",
    b"-5",
    b"5,5",
    b"5, 6",
    b"5 5",
    b"0x5",
    b"5.0",
    b"5e0",
    b"",
    b"18446744073709551621",
]
CODINGS = [
    b"chunked",
    b"Chunked",
    b"chunked,chunked",
    b"gzip, chunked",
    b"chunked, gzip",
    b"identity",
    b"xchunked",
    b'"chunked"',
    b"",
]
BODIES = [
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"0\r\n\r\n",
    b"5;x\r\nhello\r\n0\r\n\r\n",
    b"0005\r\nhello\r\n0\r\nX: y\r\n\r\n",
]
ENDS = [b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n"]


def drawn(chance: Random) -> bytes:
    """A request whose framing nobody should have to guess, and another one behind it."""

    def blank() -> bytes:
        return chance.choice(BLANKS) if chance.random() < 0.2 else b""

    lines = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        name, values = chance.choice([(b"Content-Length", LENGTHS), (b"Transfer-Encoding", CODINGS)])
        name = name.swapcase() if chance.random() < 0.1 else name
        lines.append(name + blank() + b":" + (b" " if chance.random() < 0.8 else blank()) + chance.choice(values) + blank())
    head = b"".join(line + chance.choice(ENDS) for line in lines)
    return POST + head + b"\r\n" + chance.choice(BODIES) + SMUGGLED


def test_drawn_requests_get_the_same_answer(ports: Ports) -> None:
    """Length against coding, blanks, odd line ends: hundreds of them, drawn anew each time."""
    seed = SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance = Random(seed)
    requests = [drawn(chance) for _ in range(400)]
    with ThreadPoolExecutor(40) as pool:
        differing = [
            request for request, same in zip(requests, pool.map(partial(alike, ports), requests), strict=True) if not same
        ]
    assert differing == [], f"seed {seed}"


def alike(ports: Ports, request: bytes) -> bool:
    """Whether all three answer alike. What is refused in the middle may reach us before or after the reset: three looks."""
    for _ in range(3):
        uvicorn, plain, tls = (answer.removesuffix(b"<reset>") for answer in three_outcomes(ports, [request]))
        if uvicorn == plain == tls:
            return True
    return False


@pytest.mark.parametrize("name", ["plain get", "pipelined", "cl", "chunked", "expect"])
def test_it_does_not_matter_how_the_bytes_are_cut(ports: Ports, name: str) -> None:
    """One byte at a time, the first one alone: the answer is the same.

    Without those that are refused in the middle: what a client still sends then meets a closed socket, sooner or later.
    """
    whole = REQUESTS[name]
    assert len(set(three_outcomes(ports, [whole[place : place + 1] for place in range(len(whole))]))) == 1


def test_pipelined_requests_are_answered_in_order_over_mutual_tls(ports: Ports) -> None:
    """Two hundred requests in one write: two hundred answers, in their order."""
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(200))
    answer = outcome(ports.mutual_tls(), [requests])
    assert re.findall(rb"GET /(\d+) ", answer) == [b"%d" % number for number in range(200)]


def test_a_client_that_half_closes_gets_what_uvicorn_gives(ports: Ports) -> None:
    """uvicorn takes the end of the client's side for the end of the connection; so does MeshProtocol."""
    answers = []
    for port in (ports.plain, ports.meshed):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(POST + b"Content-Length: 5\r\n\r\nhe")
            connection.shutdown(socket.SHUT_WR)
            answers.append(talk(connection, []))
    assert answers[0] == answers[1] == b""


def test_a_close_notify_in_the_middle_of_a_request_ends_it(ports: Ports) -> None:
    """Over TLS the peer's goodbye is the end of its side: no answer, a clean close, and the server goes on."""
    with ports.mutual_tls() as connection:
        connection.sendall(POST + b"Content-Length: 5\r\n\r\nhe")
        connection.settimeout(5)
        plain = connection.unwrap()  # waits for the server's own close_notify
        assert plain.recv(1) == b""
    assert b"GET /first" in outcome(ports.mutual_tls(), [REQUESTS["plain get"]])


def test_uvicorns_own_tls_is_left_alone(tmp_path: Path) -> None:
    """With `ssl_certfile` given, the server's TLS is the user's: the scheme is https and nobody's identity is proved."""
    mesh, authority = mesh_in(tmp_path)
    leaf = authority.issue("web")
    (tmp_path / "web.pem").write_bytes(leaf.key + leaf.chain)
    seen: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["extensions"]["meshlib.peer"].spiffe_id, "tls" in scope["extensions"]))
        await tell(scope, receive, send)

    with serving(look, MeshProtocol.serving(mesh), ssl_certfile=str(tmp_path / "web.pem")) as port:
        context = authority.client_context(authority.issue("productpage"))
        answer = outcome(context.wrap_socket(socket.create_connection(("127.0.0.1", port))), [REQUESTS["plain get"]])
    assert answer.startswith(b"HTTP/1.1 200")
    assert seen == [("https", "", False)]
