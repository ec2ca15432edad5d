"""Telling the mesh which port a uvicorn server really listens on, once it does, and before it no longer does.

`Server.startup` is uvicorn's one place where sockets begin to listen, whether it binds them itself, inherits them in a
`--workers` process or gets them from gunicorn; `Server.shutdown` is where they end. Both are wrapped; servers of other
protocols are left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshlib.runtime.addresses import announce

if TYPE_CHECKING:
    from uvicorn.server import Server

    from meshlib.runtime.mesh import Mesh
    from meshlib_asgi.protocol import MeshProtocol

LONGEST_GOODBYE = 2.0
"""Seconds that a server goes on at most so that its clients can move away; the mesh needs less."""


def watch(server_class: type[Server], protocol_class: type[MeshProtocol]) -> None:
    """Register every server of `server_class` that speaks `protocol_class`, from now on."""
    start, stop = server_class.startup, server_class.shutdown

    @functools.wraps(start)
    async def startup(self: Server, sockets: list[socket.socket] | None = None) -> None:
        await start(self, sockets=sockets)
        spoken = self.config.http_protocol_class
        if issubclass(spoken, protocol_class) and self.started:
            announce(spoken.current_mesh(), _addresses(_listeners(self, sockets)))

    @functools.wraps(stop)
    async def shutdown(self: Server, sockets: list[socket.socket] | None = None) -> None:
        spoken = self.config.http_protocol_class
        if issubclass(spoken, protocol_class) and not self.force_exit:
            await withdraw(spoken.current_mesh(), _listeners(self, sockets))
        await stop(self, sockets=sockets)

    server_class.startup = startup  # type: ignore[method-assign]
    server_class.shutdown = shutdown  # type: ignore[method-assign]


def _listeners(server: Server, given: list[socket.socket] | None) -> Iterable[socket.socket]:
    if given is not None:
        return given
    return [sock for listening in server.servers for sock in listening.sockets]


async def withdraw(mesh: Mesh, listeners: Iterable[socket.socket]) -> None:
    """Take the registration of these listeners back, and return when clients had the time to move away."""
    for _, port in _addresses(listeners):
        with contextlib.suppress(TimeoutError):  # then the server ends without: clients try another one
            async with asyncio.timeout(LONGEST_GOODBYE):
                await asyncio.wrap_future(mesh.withdraw(port))


def _addresses(listeners: Iterable[socket.socket]) -> list[tuple[str, int]]:
    return [listener.getsockname()[:2] for listener in listeners if listener.family != socket.AF_UNIX]
