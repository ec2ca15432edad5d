"""gunicorn's workers in the mesh: one mixin per kind of worker, to be put before gunicorn's class.

A worker that is told to end (SIGTERM) first takes its registration back, serves on until clients had the time to move away,
and then ends as gunicorn's does. In a hurry (SIGQUIT, SIGINT) it does not wait.

sync      a connection is one request: admitted before it is parsed
gthread   admitted in the pool's thread at the connection's first request, so that a handshake never holds up the accept loop
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker
from gunicorn.workers.sync import SyncWorker

import meshlib
from meshlib.runtime.addresses import announce
from meshlib_wsgi.connection import PATIENCE, ConnectionRefused, admitted

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

_TRY_AGAIN = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)  # another worker took it, or the client left


class InMesh:
    """What both kinds share: the worker joins and registers after the fork, when its loop begins.

    Attributes:
        mesh: the mesh to serve; None: `meshlib.default()`. Set it in a subclass.
        patience: seconds that a client may take for its first byte, and again for its handshake.
    """

    mesh: ClassVar[Mesh | None] = None
    patience: ClassVar[float] = PATIENCE
    _joined: Mesh | None = None  # for signal handlers: `current_mesh` takes a lock
    cfg: Any
    sockets: list[Any]
    PIPE: list[int]

    @property
    def current_mesh(self) -> Mesh:
        """The mesh that this worker serves."""
        return self.mesh or meshlib.default()

    def run(self) -> None:
        """gunicorn's last step of starting a worker: the sockets listen since before the fork."""
        mesh = self._joined = self.current_mesh
        announce(mesh, self._addresses())
        try:
            super().run()  # type: ignore[misc]  # the worker class that follows has it
        finally:
            mesh.close()

    def _addresses(self) -> list[tuple[str, int]]:
        return [bound.getsockname()[:2] for bound in self.sockets if bound.FAMILY != socket.AF_UNIX]

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM. A signal handler: the waiting is done by the mesh, which calls back from a thread of its own."""
        end = super().handle_exit  # type: ignore[misc]  # as above
        self._withdrawn(lambda: self._end(lambda: end(sig, None)))

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT, SIGINT: clients are told, but not waited for."""
        self._withdrawn(lambda: None)
        super().handle_quit(sig, frame)  # type: ignore[misc]  # as above

    def _withdrawn(self, then: Callable[[], None]) -> None:
        mesh = self._joined
        registrations = [mesh.withdraw(port) for _, port in self._addresses()] if mesh else []
        last = next((one for one in registrations if not one.done()), None)
        if last is None:
            then()
        else:
            last.add_done_callback(lambda _: then())

    def _end(self, end: Callable[[], None]) -> None:
        end()
        with contextlib.suppress(OSError):  # full, or closed already: then nobody sleeps
            os.write(self.PIPE[1], b".")  # wakes the worker's loop, as a signal would

    def admit(self, connection: socket.socket) -> socket.socket:
        """The connection to serve, see `connection.admitted`. gunicorn's own TLS options keep the mesh's TLS out."""
        return connection if self.cfg.is_ssl else admitted(connection, self.current_mesh, self.patience)


class SyncInMesh(InMesh):
    """For SyncWorker and its subclasses."""

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve one accepted connection."""
        try:
            connection = self.admit(client)
        except ConnectionRefused:
            util.close(client)
            return
        super().handle(listener, connection, addr)  # type: ignore[misc]  # the worker class that follows has it


class ThreadInMesh(InMesh):
    """For ThreadWorker and its subclasses."""

    nr_conns: int

    def accept(self, listener: Any) -> None:
        """As gunicorn's, but for the class of the connection."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in _TRY_AGAIN:
                raise
            return
        self.nr_conns += 1
        self.enqueue_req(_Connection(self, client, address, listener.getsockname()))  # type: ignore[attr-defined]  # as above


class _Connection(TConn):  # type: ignore[misc]  # gunicorn has no type information
    """A connection that is admitted where gunicorn would begin its own TLS: in a thread, once there are bytes."""

    sock: socket.socket

    def __init__(self, worker: ThreadInMesh, client: socket.socket, address: Any, server: Any) -> None:
        super().__init__(worker.cfg, client, address, server)
        self._worker = worker
        self._refused = False

    def init(self) -> None:
        """Called by a thread of the pool. ConnectionRefused is an OSError that gunicorn takes for a client that left."""
        if not self.initialized:
            self.sock.setblocking(True)
            self._admit()
        super().init()

    def _admit(self) -> None:
        try:
            self.sock = self._worker.admit(self.sock)
        except ConnectionRefused:
            self._refused = True
            raise

    def close(self, graceful: bool = False) -> None:
        """A graceful close waits for the client in the accepting thread: not for one that was refused."""
        super().close(graceful and not self._refused)


class MeshSyncWorker(SyncInMesh, SyncWorker):  # type: ignore[misc]  # gunicorn has no type information
    """`gunicorn app:app -w 4 -k meshlib_wsgi.MeshSyncWorker`. With `--threads` take `MeshThreadWorker`: gunicorn puts its own
    gthread worker in the place of any class whose name ends in SyncWorker.
    """


class MeshThreadWorker(ThreadInMesh, ThreadWorker):  # type: ignore[misc]  # gunicorn has no type information
    """`gunicorn app:app -w 4 --threads 8 -k meshlib_wsgi.MeshThreadWorker`."""
