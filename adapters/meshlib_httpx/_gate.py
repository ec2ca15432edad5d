"""The way of one httpx request into the mesh, asynchronous and blocking: convert, send, convert back.

One source serves httpx and httpx2: their classes are distinct and alike, so the library is an argument.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

import meshlib
from meshlib.errors import MeshError
from meshlib.runtime.client_async import AsyncClient, AsyncResponse
from meshlib.runtime.client_sync import SyncResponse
from meshlib.runtime.mesh import Mesh
from meshlib_httpx._convert import exception_of, extensions_of, facts_of, timeout_of


class AsyncGate:
    """For `AsyncClient`.

    Args:
        library: httpx or httpx2.
        mesh: None: the process's own, once it is needed.
    """

    def __init__(self, library: ModuleType, mesh: Mesh | None = None) -> None:
        self._library = library
        self._mesh = mesh
        self._body = async_body(library)
        self._client: AsyncClient | None = None
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    async def send(self, request: Any) -> Any:
        """The response; None: this request is not for the mesh.

        Raises:
            httpx.TransportError: there is no response; the note says what the mesh saw.
        """
        if request.url.scheme != "http" or request.method == "CONNECT":
            return None
        facts, host = facts_of(request)
        stream = request.stream
        body = b"".join(stream) or None if isinstance(stream, self._library.ByteStream) else stream
        try:
            response = await self._client_here().send(facts, body, timeout=timeout_of(request), host=host)
        except MeshError as error:
            raise exception_of(self._library, error, request) from error
        if response is None:
            return None
        rest = response.whole
        return self._library.Response(
            response.status,
            headers=response.headers,
            stream=self._body(response, request) if rest is None else self._library.ByteStream(rest),
            extensions=extensions_of(response.sighting, response.http_version, response.reason),
        )

    def _client_here(self) -> AsyncClient:
        """The mesh's client for the running loop, remembered: most programs have one loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is None or self._loop() is not loop:
            if self._mesh is None:
                self._mesh = meshlib.default()
            self._client, self._loop = self._mesh.async_client(), weakref.ref(loop)
        return self._client


class SyncGate:
    """For `Client`; same arguments."""

    def __init__(self, library: ModuleType, mesh: Mesh | None = None) -> None:
        self._library = library
        self._mesh = mesh
        self._body = sync_body(library)

    def send(self, request: Any) -> Any:
        """The response; None: this request is not for the mesh.

        Raises:
            httpx.TransportError: there is no response; the note says what the mesh saw.
        """
        if request.url.scheme != "http" or request.method == "CONNECT":
            return None
        if self._mesh is None:
            self._mesh = meshlib.default()
        facts, host = facts_of(request)
        stream = request.stream
        body = b"".join(stream) or None if isinstance(stream, self._library.ByteStream) else stream
        try:
            response = self._mesh.client().send(facts, body, timeout=timeout_of(request), host=host)
        except MeshError as error:
            raise exception_of(self._library, error, request) from error
        if response is None:
            return None
        rest = response.whole
        return self._library.Response(
            response.status,
            headers=response.headers,
            stream=self._body(response, request) if rest is None else self._library.ByteStream(rest),
            extensions=extensions_of(response.sighting, response.http_version, response.reason),
        )


@lru_cache
def async_body(library: ModuleType) -> Any:
    """The class of response bodies for `AsyncClient`, which accepts none but its own library's streams."""

    class AsyncBody(library.AsyncByteStream):  # type: ignore[misc, name-defined]  # the library is an argument
        def __init__(self, response: AsyncResponse, request: Any) -> None:
            self._response = response
            self._request = request

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for piece in self._response:
                    yield piece
            except MeshError as error:
                raise exception_of(library, error, self._request) from error

        async def aclose(self) -> None:
            self._response.close()

    return AsyncBody


@lru_cache
def sync_body(library: ModuleType) -> Any:
    """The class of response bodies for `Client`, which accepts none but its own library's streams."""

    class SyncBody(library.SyncByteStream):  # type: ignore[misc, name-defined]  # the library is an argument
        def __init__(self, response: SyncResponse, request: Any) -> None:
            self._response = response
            self._request = request

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._response
            except MeshError as error:
                raise exception_of(library, error, self._request) from error

        def close(self) -> None:
            self._response.close()

    return SyncBody
