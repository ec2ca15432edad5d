"""Telling the mesh which port a uvicorn server really listens on, once it does.

`Server.startup` is uvicorn's one place where sockets begin to listen, whether it binds them itself, inherits them in a
`--workers` process or gets them from gunicorn. It is wrapped; servers of other protocols are left alone.
"""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.server import Server

    from meshlib.runtime.mesh import Mesh
    from meshlib_asgi.protocol import MeshProtocol

_log = logging.getLogger("meshlib.asgi")


def watch(server_class: type[Server], protocol_class: type[MeshProtocol]) -> None:
    """Register every server of `server_class` that speaks `protocol_class`, from now on."""
    original = server_class.startup

    @functools.wraps(original)
    async def startup(self: Server, sockets: list[socket.socket] | None = None) -> None:
        await original(self, sockets=sockets)
        spoken = self.config.http_protocol_class
        if issubclass(spoken, protocol_class) and self.started:
            announce(spoken.current_mesh(), sockets if sockets is not None else _listeners(self))

    server_class.startup = startup  # type: ignore[method-assign]


def _listeners(server: Server) -> Iterable[socket.socket]:
    for listening in server.servers:
        yield from listening.sockets


def announce(mesh: Mesh, listeners: Iterable[socket.socket]) -> None:
    """Join and register the first TCP port among `listeners`; with MESHLIB_TARGET_PORT set, that port only."""
    if not mesh.settings.enabled:
        return
    mesh.start()
    addresses = [listener.getsockname() for listener in listeners if listener.family != socket.AF_UNIX]
    wanted = [pair for pair in addresses if mesh.settings.target_port in (0, pair[1])]
    if wanted:
        host, port = wanted[0][:2]
        mesh.serve(port, host)
    elif addresses:
        _log.info("port %d is not registered: MESHLIB_TARGET_PORT is %d", addresses[0][1], mesh.settings.target_port)
