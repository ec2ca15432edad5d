"""The client's side of mutual TLS: a Unix socket that leads to one endpoint, whose identity is checked first.

gRPC's core connects to the socket whenever it wants a connection. Only then does the bridge connect to the endpoint, shake
hands and compare the SPIFFE id; the core's first byte is read after that. If any of it fails, the core's connection is closed
before its HTTP/2 settings are answered, which it reports as a failure to connect, and `problem` says why.

Rule 1: the socket is in a folder of ours with mode 0700: only this user's processes could connect in our name.
Rule 2: a bridge belongs to one generation of our certificate; a new generation gets new bridges.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Set

from meshlib.errors import IdentityError
from meshlib.runtime.call import ClientTls
from meshlib.runtime.tls import TlsLayer, proven_identity

from ._tunnel import End


class Bridge:
    """Leads to one endpoint. Everything but `problem` belongs to one event loop.

    Args:
        path: of the socket to make.
        place: address and port of the endpoint.
        tls: our certificate.
        sni: server name to send; empty: none.
        allowed: SPIFFE ids that may answer.
        connect_timeout: seconds for connecting and shaking hands.
    """

    def __init__(
        self, path: str, place: tuple[str, int], tls: ClientTls, sni: str, allowed: Set[str], connect_timeout: float
    ) -> None:
        self.path = path
        self.place = place
        self.problem = ""
        self.principal = next(iter(allowed)) if len(allowed) == 1 else ""
        self._tls = tls
        self._sni = sni
        self._allowed = frozenset(allowed)
        self._connect_timeout = connect_timeout
        self._server: asyncio.Server | None = None
        self._ends: set[End] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Bridge to {self.place[0]}:{self.place[1]} {len(self._ends)} ends {self.problem}>"

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: End(None, self._on_wanted, self._on_closed), self.path)

    def close(self) -> None:
        """Listen no more, and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        for end in list(self._ends):
            end.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _on_wanted(self, near: End) -> None:
        self._ends.add(near)
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: End) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                far = await self._secured()
        except TimeoutError:
            self.problem = f"no connection within {self._connect_timeout:g} s"
            near.abort()
        except (OSError, IdentityError) as error:
            self.problem = str(error) or type(error).__name__
            near.abort()
        except BaseException:
            near.abort()
            raise
        else:
            self.problem = ""
            self._ends.add(far)
            far.join(near)

    async def _secured(self) -> End:
        """A connection to the endpoint that has proved who it is.

        Raises:
            OSError: no connection, or no TLS.
            PeerRejected: somebody else answered.
        """
        loop = asyncio.get_running_loop()
        established: asyncio.Future[None] = loop.create_future()

        def on_established(end: End) -> None:
            if not established.done():
                established.set_result(None)

        def on_closed(end: End, error: Exception | None) -> None:
            self._on_closed(end, error)
            if not established.done():
                established.set_exception(error or ConnectionResetError("the peer closed the connection while shaking hands"))

        layer = TlsLayer(self._tls.context, server_side=False, server_hostname=self._sni)
        _, far = await loop.create_connection(lambda: End(layer, on_established, on_closed, starts=True), *self.place)
        with contextlib.suppress(OSError):
            far.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await established
            self.principal = proven_identity(layer, self._allowed, f"{self.place[0]}:{self.place[1]}")
        except BaseException:
            far.abort()
            raise
        return far

    def _on_closed(self, end: End, error: Exception | None) -> None:
        # TLS 1.3: a server refuses our certificate after our side of the handshake is done.
        if error is not None and end.layer is not None and not isinstance(error, ConnectionError):
            self.problem = str(error)
        self._ends.discard(end)
