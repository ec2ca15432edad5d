"""The transports for httpx."""

from __future__ import annotations

import httpx

from meshlib.runtime.mesh import Mesh
from meshlib_httpx._gate import AsyncGate, SyncGate


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """Sends what is in the mesh through the mesh, and everything else as usual: `AsyncClient(transport=AsyncMeshTransport())`.

    One transport, as one client, may be used on several event loops.

    Args:
        mesh: None: the process's own, from `MESHLIB_*` in the environment.
        passthrough: for https, IP addresses and hosts outside the mesh; None: an ordinary `AsyncHTTPTransport`.
    """

    def __init__(self, mesh: Mesh | None = None, *, passthrough: httpx.AsyncBaseTransport | None = None) -> None:
        self._gate = AsyncGate(httpx, mesh)
        self._passthrough = passthrough

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response | None = await self._gate.send(request)
        if response is not None:
            return response
        if self._passthrough is None:
            self._passthrough = httpx.AsyncHTTPTransport()  # reads the CA bundle: not before it is needed
        return await self._passthrough.handle_async_request(request)

    async def aclose(self) -> None:
        if self._passthrough is not None:
            await self._passthrough.aclose()


class MeshTransport(httpx.BaseTransport):
    """Sends what is in the mesh through the mesh, and everything else as usual: `Client(transport=MeshTransport())`.

    Args:
        mesh: None: the process's own, from `MESHLIB_*` in the environment.
        passthrough: for https, IP addresses and hosts outside the mesh; None: an ordinary `HTTPTransport`.
    """

    def __init__(self, mesh: Mesh | None = None, *, passthrough: httpx.BaseTransport | None = None) -> None:
        self._gate = SyncGate(httpx, mesh)
        self._passthrough = passthrough

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response | None = self._gate.send(request)
        if response is not None:
            return response
        if self._passthrough is None:
            self._passthrough = httpx.HTTPTransport()  # reads the CA bundle: not before it is needed
        return self._passthrough.handle_request(request)

    def close(self) -> None:
        if self._passthrough is not None:
            self._passthrough.close()
