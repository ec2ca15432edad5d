"""The API's port: uvicorn inside our own asyncio loop, with TLS where others than this machine can connect."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from .ca import ServerCertificate
from .grpc_listener import RenewedCertificate


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the control plane as a whole, which ends its parts in order."""
        yield


class ApiServer:
    """A running API.

    Args:
        app: what to serve.
        listener: a listening socket.
        certificate: for TLS; None: plain HTTP, for loopback only.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, certificate: RenewedCertificate | None) -> None:
        self._listener = listener
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # nobody stands in front of it who could be believed
            timeout_graceful_shutdown=1,
            ssl_context_factory=(lambda _config, _default: renewed_context(certificate)) if certificate else None,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110  uvicorn has no event for this
            await asyncio.sleep(0.005)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Finishes requests that run, for at most a second, and closes the port."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listener.close()


def renewed_context(certificate: RenewedCertificate) -> ssl.SSLContext:
    """A server's TLS context that shows the newest certificate at each handshake."""
    made: dict[int, ssl.SSLContext] = {}

    def newest() -> ssl.SSLContext:
        shown = certificate.current
        if id(shown) not in made:
            made.clear()
            made[id(shown)] = _context(shown)
        return made[id(shown)]

    def swap(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = newest()

    context = _context(certificate.current)
    context.sni_callback = swap
    return context


def _context(certificate: ServerCertificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python's ssl reads keys from files only; this folder has mode 0700 and is gone when the line is done.
    with tempfile.TemporaryDirectory(prefix="meshlib-") as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(certificate.chain)
        key.write_bytes(certificate.key)
        context.load_cert_chain(chain, key)
    return context
