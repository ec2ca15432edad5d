"""The five client libraries under one small interface, so that one contract can hold for all.

A caller's `call` runs one request in the library's ordinary way: a client object, a method, the body read. Blocking libraries
run in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import httpx
import httpx2
import requests

import meshlib_httpx
import meshlib_httpx.httpx2
from meshlib.errors import Sighting
from meshlib_requests import MeshAdapter


@dataclass
class Reply:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    pieces: list[bytes]
    url: str
    history: int
    cookies: dict[str, str]
    sighting: Sighting | None
    reason: str


@dataclass(frozen=True)
class Errors:
    """The exceptions of a library for what can happen."""

    connect: type[Exception]
    connect_timeout: type[Exception]
    read_timeout: type[Exception]
    closed: type[Exception]  # the peer closed without a response
    broken_body: type[Exception]
    body_timeout: type[Exception]
    malformed: type[Exception]
    invalid: type[Exception]


class Caller:
    """One library. `mesh` is given by the test."""

    name: str
    errors: Errors

    def open(self, mesh: Any) -> None:
        """Make a client on the mesh."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close it."""

    async def call(
        self,
        method: str,
        url: str,
        *,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 10.0,
        stop_after: int | None = None,
    ) -> Reply:
        """One request with redirects followed.

        Args:
            content: an iterable is streamed.
            stop_after: close the response after so many pieces of its body.
        """
        raise NotImplementedError


def _httpx_errors(library: ModuleType) -> Errors:
    return Errors(
        library.ConnectError,
        library.ConnectTimeout,
        library.ReadTimeout,
        library.RemoteProtocolError,
        library.RemoteProtocolError,
        library.ReadTimeout,
        library.RemoteProtocolError,
        library.LocalProtocolError,
    )


def _httpx_reply(response: Any, pieces: list[bytes], client: Any) -> Reply:
    return Reply(
        response.status_code,
        response.headers,
        b"".join(pieces),
        pieces,
        str(response.url),
        len(response.history),
        dict(client.cookies),
        response.extensions.get("meshlib"),
        response.reason_phrase,
    )


class HttpxAsync(Caller):
    def __init__(self, library: ModuleType, transports: Any) -> None:
        self.name = f"{library.__name__} async"
        self.errors = _httpx_errors(library)
        self._library, self._transports = library, transports

    def open(self, mesh: Any) -> None:
        transport = self._transports.AsyncMeshTransport(mesh)
        self.client = self._library.AsyncClient(transport=transport, follow_redirects=True)

    async def close(self) -> None:
        await self.client.aclose()

    async def call(
        self, method: str, url: str, *, content: Any = None, stop_after: int | None = None, **options: Any
    ) -> Reply:
        body = content if content is None or isinstance(content, bytes) else _asynchronous(content)
        async with self.client.stream(method, url, content=body, **options) as response:
            pieces = []
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                if len(pieces) == stop_after:
                    break
        return _httpx_reply(response, pieces, self.client)


class HttpxSync(Caller):
    def __init__(self, library: ModuleType, transports: Any) -> None:
        self.name = f"{library.__name__} sync"
        self.errors = _httpx_errors(library)
        self._library, self._transports = library, transports

    def open(self, mesh: Any) -> None:
        self.client = self._library.Client(transport=self._transports.MeshTransport(mesh), follow_redirects=True)

    async def close(self) -> None:
        self.client.close()

    async def call(self, *args: Any, **options: Any) -> Reply:
        return await asyncio.to_thread(self._call, *args, **options)

    def _call(self, method: str, url: str, *, content: Any = None, stop_after: int | None = None, **options: Any) -> Reply:
        with self.client.stream(method, url, content=content, **options) as response:
            pieces = _some(response.iter_bytes(), stop_after)
        return _httpx_reply(response, pieces, self.client)


class Requests(Caller):
    name = "requests"
    errors = Errors(
        requests.exceptions.ConnectionError,
        requests.exceptions.ConnectTimeout,
        requests.exceptions.ReadTimeout,
        requests.exceptions.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ConnectionError,
        requests.exceptions.ConnectionError,
        requests.exceptions.InvalidHeader,
    )

    def open(self, mesh: Any) -> None:
        self.session = requests.Session()
        self.session.mount("http://", MeshAdapter(mesh))

    async def close(self) -> None:
        self.session.close()

    async def call(self, *args: Any, **options: Any) -> Reply:
        return await asyncio.to_thread(self._call, *args, **options)

    def _call(self, method: str, url: str, *, content: Any = None, stop_after: int | None = None, **options: Any) -> Reply:
        data = iter(content) if content is not None and not isinstance(content, bytes) else content
        with self.session.request(method, url, data=data, stream=True, **options) as response:
            pieces = _some(response.iter_content(65_536), stop_after)
        cookies = self.session.cookies.get_dict()
        seen = getattr(response, "meshlib", None)
        return Reply(
            response.status_code,
            response.headers,
            b"".join(pieces),
            pieces,
            response.url,
            len(response.history),
            cookies,
            seen,
            response.reason,
        )


def _some(pieces: Iterator[bytes], stop_after: int | None) -> list[bytes]:
    taken: list[bytes] = []
    for piece in pieces:
        taken.append(piece)
        if len(taken) == stop_after:
            break
    return taken


async def _asynchronous(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


def callers() -> list[Caller]:
    """One of each kind."""
    return [
        HttpxAsync(httpx, meshlib_httpx),
        HttpxSync(httpx, meshlib_httpx),
        HttpxAsync(httpx2, meshlib_httpx.httpx2),
        HttpxSync(httpx2, meshlib_httpx.httpx2),
        Requests(),
    ]
