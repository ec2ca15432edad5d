"""Both sides judge the same requests: a real Envoy with the filter that the control plane makes, and ours in process."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from meshlib.config.decode_jwt import jwt_authn
from meshlib.config.jwt import METADATA
from meshlib.config.messages import unpack
from meshlib.facts import Peer, Request
from meshlib.inbound.jwt import TokenCheck
from meshlib.inbound.visit import Visit
from meshlib_control.translate.request_authentication import token_filters
from tests.conformance.tokens.drawing import Asked, Case
from tests.support import envoy
from tests.support.worlds import server, world

Json = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

AUTHORITY = "reviews:9080"
_TOLD = "x-told-metadata"


@dataclass(frozen=True, slots=True)
class Seen:
    """How a request went.

    Args:
        words: the body of a refusal.
        challenge: its `www-authenticate`.
        path, headers, claims: what the application gets, and what later filters do.
    """

    status: int
    words: str = ""
    challenge: str = ""
    path: str = ""
    headers: Headers = ()
    claims: Any = None


def authentication(case: Case) -> Any:
    """The filter that the control plane makes of a case's rules, each in a policy of its own."""
    items = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": f"policy-{number}", "namespace": "default"},
            "spec": {"jwtRules": [rule]},
        }
        for number, rule in enumerate(case.rules)
    ]
    known = world("\n---\n".join(map(json.dumps, items)), nodes=())
    (made,) = token_filters(known, server(), 7001)
    return unpack(made["typed_config"])


def ours(filter_of_case: Any, asked: Sequence[Asked]) -> list[Seen]:
    """What we do with requests, twice: the second time some tokens are known."""
    found = jwt_authn(filter_of_case, "test")
    assert found is not None
    check = TokenCheck(found)
    once = [_ours(check, one) for one in asked]
    again = [_ours(check, one) for one in asked]
    assert once == again, "a token that was proved before is judged differently"
    return once


def _ours(check: TokenCheck, asked: Asked) -> Seen:
    headers = tuple((name.lower(), value.strip(" \t")) for name, value in asked.headers)
    visit = Visit(Request(asked.method, "http", AUTHORITY, asked.path, headers), Peer(), now=time.time())
    denied = check(visit)
    if denied is not None:
        return Seen(denied.status, denied.words, dict(denied.headers)["www-authenticate"])
    claims = visit.metadata.get(METADATA)
    return Seen(200, path=visit.request.path, headers=visit.request.headers, claims=claims)


def _listener(name: str, made: Any) -> Json:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "echo"}}
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": [route],
        "request_headers_to_add": [{"header": {"key": _TOLD, "value": f"%DYNAMIC_METADATA({METADATA})%"}}],
    }
    listener = envoy.http_listener(name, [host])
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    body = json_format.MessageToDict(made, preserving_proto_field_name=True, descriptor_pool=made.DESCRIPTOR.file.pool)
    typed = {"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", **body}
    manager["http_filters"].insert(0, {"name": "envoy.filters.http.jwt_authn", "typed_config": typed})
    return listener


class _Echo(asyncio.Protocol):
    """Answers each request with its own head."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, self._read = self._read.partition(b"\r\n\r\n")
            body = base64.b64encode(head)
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


@contextmanager
def refereed(cases: Sequence[Case], port: int, folder: Path) -> Iterator[dict[str, int]]:
    """An Envoy with a listener for each case; gives their ports by name."""
    listeners = [_listener(f"case-{number}", authentication(case)) for number, case in enumerate(cases)]
    with envoy.running(listeners, folder, [envoy.cluster("echo", port)]) as ports:
        yield ports


async def judge(cases: Sequence[Case], folder: Path) -> list[list[tuple[Seen, Seen]]]:
    """How each case's requests go: by Envoy, by us."""
    loop = asyncio.get_running_loop()
    echo = await loop.create_server(_Echo, "127.0.0.1", 0)
    with refereed(cases, echo.sockets[0].getsockname()[1], folder) as ports:
        theirs = await asyncio.gather(*(_asked(ports[f"case-{number}"], case) for number, case in enumerate(cases)))
    echo.close()
    return [
        list(zip(their, ours(authentication(case), case.requests), strict=True))
        for case, their in zip(cases, theirs, strict=True)
    ]


async def _asked(port: int, case: Case) -> list[Seen]:
    """One connection for all, as long as it is kept."""
    seen: list[Seen] = []
    while len(seen) < len(case.requests):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            for asked in case.requests[len(seen) :]:
                writer.write(_written(asked))
                seen.append(await _answer(reader))
                if seen[-1].status == 400:  # Envoy closes after it
                    break
        finally:
            writer.close()
    return seen


def _written(asked: Asked) -> bytes:
    lines = [
        f"{asked.method} {asked.path} HTTP/1.1",
        f"host: {AUTHORITY}",
        *(f"{name}: {value}" for name, value in asked.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _answer(reader: asyncio.StreamReader) -> Seen:
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = _fields(rest)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    status = int(first.split(" ")[1])
    return _let_through(body) if status == 200 else Seen(status, body.decode(), headers.get("www-authenticate", ""))


def _fields(lines: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


def _let_through(body: bytes) -> Seen:
    first, *rest = base64.b64decode(body).decode("latin-1").split("\r\n")
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in rest))
    told = dict(headers).get(_TOLD, "-")
    claims = json.loads(told.encode("latin-1").decode()) if told != "-" else None
    path = first.partition(" ")[2].rpartition(" ")[0]  # Envoy decodes blanks into it
    return Seen(200, path=path, headers=tuple(one for one in headers if one[0] != _TOLD), claims=claims)
