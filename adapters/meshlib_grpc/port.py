"""A server's door: our acceptor in front of gRPC's own socket, opened and closed with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import grpc

import meshlib
from meshlib.runtime.mesh import Mesh

from ._acceptor import Acceptor
from ._tunnel import Background

_log = logging.getLogger("meshlib.grpc")

ACCEPTOR = "_meshlib_acceptor"  # on servers

_FOREIGN = ("unix:", "unix-abstract:", "vsock:", "xds:", "fd:")


def add_port(
    server: grpc.Server,
    address: str,
    mesh: Mesh | None,
    *,
    reuse_port: bool = True,
    original: Callable[[str], int] | None = None,
) -> int:
    """See `meshlib_grpc.add_port`.

    Args:
        original: the server's own `add_insecure_port`, if that name leads here.
    """
    listen = original or server.add_insecure_port
    mesh = mesh or meshlib.default()
    if address.startswith(_FOREIGN) or not mesh.settings.enabled:
        return listen(address)
    acceptor: Acceptor | None = getattr(server, ACCEPTOR, None)
    if acceptor is not None:
        return acceptor.bind(address, reuse_port=reuse_port)
    acceptor = Acceptor(mesh)
    port = acceptor.bind(address, reuse_port=reuse_port)
    listen(f"unix:{acceptor.target}")
    setattr(server, ACCEPTOR, acceptor)
    _with_server(server, acceptor, mesh)
    return port


def announce(mesh: Mesh, acceptor: Acceptor) -> None:
    """Join and register the first port; with MESHLIB_TARGET_PORT set, that port only."""
    mesh.start()
    wanted = [place for place in acceptor.listening if mesh.settings.target_port in (0, place[1])]
    if wanted:
        host, port = wanted[0]
        mesh.serve(port, host, "grpc")
    else:
        _log.info("port %d is not registered: MESHLIB_TARGET_PORT is %d", acceptor.listening[0][1], mesh.settings.target_port)


def _withdrawn(mesh: Mesh, acceptor: Acceptor) -> list[Future[None]]:
    """Take the registration back; done once nobody is sent here any more."""
    return [mesh.withdraw(port) for _, port in acceptor.listening]


def _later(leaving: list[Future[None]], shut: Callable[[], threading.Event], ended: threading.Event) -> None:
    for each in leaving:
        with contextlib.suppress(Exception):  # whatever became of the registration, the server stops
            each.result()
    shut().wait()
    ended.set()


def _with_server(server: Any, acceptor: Acceptor, mesh: Mesh) -> None:
    """The server's own methods open and close the acceptor from now on."""
    background = Background("meshlib-grpc-accept")
    start, stop = server.start, server.stop

    def shut(grace: float | None) -> threading.Event:
        background.call(lambda: acceptor.drain(background.stop))
        ended: threading.Event = stop(grace)
        return ended

    def started() -> None:
        start()
        announce(mesh, acceptor)  # first, so that no call comes in before the mesh knows which port's policy to obey
        background.run(acceptor.open())

    def stopped(grace: float | None) -> threading.Event:
        leaving = _withdrawn(mesh, acceptor)
        if not grace or all(each.done() for each in leaving):
            return shut(grace)
        ended = threading.Event()
        threading.Thread(target=_later, args=(leaving, lambda: shut(grace), ended), name="meshlib-grpc-stop").start()
        return ended

    server.start, server.stop = started, stopped


def add_aio_port(
    server: grpc.aio.Server,
    address: str,
    mesh: Mesh | None,
    *,
    reuse_port: bool = True,
    original: Callable[[str], int] | None = None,
) -> int:
    """As `add_port`. The acceptor runs in the event loop of `server.start()`, where gRPC's server runs too."""
    listen = original or server.add_insecure_port
    mesh = mesh or meshlib.default()
    if address.startswith(_FOREIGN) or not mesh.settings.enabled:
        return listen(address)
    acceptor: Acceptor | None = getattr(server, ACCEPTOR, None)
    if acceptor is not None:
        return acceptor.bind(address, reuse_port=reuse_port)
    acceptor = Acceptor(mesh)
    port = acceptor.bind(address, reuse_port=reuse_port)
    listen(f"unix:{acceptor.target}")
    setattr(server, ACCEPTOR, acceptor)
    _with_aio_server(server, acceptor, mesh)
    return port


def _with_aio_server(server: Any, acceptor: Acceptor, mesh: Mesh) -> None:
    start, stop = server.start, server.stop

    async def started() -> None:
        await start()
        # First, as above. In a thread: with MESHLIB_STRICT it waits for a certificate.
        await asyncio.get_running_loop().run_in_executor(None, announce, mesh, acceptor)
        await acceptor.open()

    async def stopped(grace: float | None) -> None:
        leaving = _withdrawn(mesh, acceptor)
        if grace:
            await asyncio.gather(*map(asyncio.wrap_future, leaving))
        acceptor.drain()
        await stop(grace)

    server.start, server.stop = started, stopped
