"""What `meshlib run` does to gunicorn and to werkzeug's server once they are imported: unmodified programs are in the mesh.

gunicorn's master chooses a worker class; it is replaced by the same class in the mesh. Nothing is joined in the master:
workers join after the fork, with and without `--preload`. Workers on uvicorn are left to the integration with uvicorn.
"""

from __future__ import annotations

import functools
import logging
import socket
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

_log = logging.getLogger("meshlib.wsgi")
_MARK = "meshlib"  # on what we put in the place of another


def gunicorn(module: ModuleType) -> None:
    """Let every worker of gunicorn join the mesh of the environment. Called once, with the imported package."""
    from gunicorn.config import Config

    original = Config.worker_class.fget
    if _MARK in original.__dict__:
        return

    @functools.wraps(original)
    def worker_class(self: Any) -> type:
        return _in_mesh(original(self))

    worker_class.__dict__[_MARK] = True
    Config.worker_class = property(worker_class)


@functools.lru_cache(maxsize=8)  # gunicorn asks for the class more than once
def _in_mesh(chosen: type) -> type:
    from gunicorn.workers.gthread import ThreadWorker
    from gunicorn.workers.sync import SyncWorker

    from meshlib_wsgi.workers import InMesh, SyncInMesh, ThreadInMesh

    if issubclass(chosen, InMesh):
        return chosen
    for kind, mixin in ((SyncWorker, SyncInMesh), (ThreadWorker, ThreadInMesh)):
        if issubclass(chosen, kind):
            return type(chosen.__name__, (_Wrapping, mixin, chosen), {"__module__": chosen.__module__})
    if not any(base.__module__.startswith(("uvicorn_worker", "uvicorn.")) for base in chosen.__mro__):
        _log.warning("gunicorn's worker %s is not in the mesh: use sync, gthread or a uvicorn worker", chosen.__name__)
    return chosen


class _Wrapping:
    """Puts the middleware around the application, once it is loaded, after the fork."""

    wsgi: Any

    def load_wsgi(self) -> None:
        from meshlib_wsgi.middleware import MeshMiddleware

        super().load_wsgi()  # type: ignore[misc]  # gunicorn's worker follows in the order of classes
        self.wsgi = MeshMiddleware(self.wsgi)


def werkzeug(module: ModuleType) -> None:
    """Let werkzeug's development server (`app.run()`, `flask run`) join the mesh of the environment. Called once."""
    from werkzeug.serving import BaseWSGIServer

    if _MARK in BaseWSGIServer.serve_forever.__dict__:
        return
    _join_when_serving(BaseWSGIServer)
    _admit_connections(BaseWSGIServer)


def _join_when_serving(server_class: type[BaseWSGIServer]) -> None:
    """`serve_forever` runs in the process that serves: under the reloader that is the child, not the watcher."""
    original = server_class.serve_forever

    @functools.wraps(original)
    def serve_forever(self: BaseWSGIServer, *args: Any, **kwargs: Any) -> None:
        import meshlib
        from meshlib.runtime.addresses import announce
        from meshlib_wsgi.middleware import MeshMiddleware

        self.app = MeshMiddleware(self.app)
        addresses: Any = [self.server_address[:2]] if self.address_family != socket.AF_UNIX else []
        announce(meshlib.default(), addresses)
        try:
            original(self, *args, **kwargs)
        finally:  # its port is closed now; the process may live on
            for _, port in addresses:
                meshlib.default().withdraw(port)

    serve_forever.__dict__[_MARK] = True
    server_class.serve_forever = serve_forever  # type: ignore[method-assign]


def _admit_connections(server_class: type[BaseWSGIServer]) -> None:
    """`finish_request` runs where the request is served: in its thread, if the server has threads."""
    original = server_class.finish_request

    @functools.wraps(original)
    def finish_request(self: BaseWSGIServer, request: Any, client_address: Any) -> None:
        import meshlib
        from meshlib_wsgi import connection as door

        if self.ssl_context is not None:
            return original(self, request, client_address)
        try:
            connection = door.admitted(request, meshlib.default(), door.PATIENCE)
        except door.ConnectionRefused:
            return None  # the caller closes it
        try:
            return original(self, connection, client_address)
        finally:
            if connection is not request:
                _farewell(connection)

    server_class.finish_request = finish_request  # type: ignore[method-assign, assignment]  # the base names it otherwise


def _farewell(connection: Any) -> None:
    """Close a TLS socket that its server does not know of; close_notify tells the client that nothing was cut off."""
    try:
        connection.settimeout(1.0)
        connection.unwrap()
    except OSError:  # the client left first, or does not answer
        pass
    finally:
        connection.close()
