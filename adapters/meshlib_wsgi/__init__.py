"""meshlib for WSGI: the request's side (`MeshMiddleware`) and the connection's side (gunicorn's worker classes).

    app.wsgi_app = MeshMiddleware(app.wsgi_app)                             # context, peer, telemetry; any WSGI server
    gunicorn app:app -w 4 -k meshlib_wsgi.MeshSyncWorker                    # mutual TLS and plain text on one port
    gunicorn app:app --threads 8 -k meshlib_wsgi.MeshThreadWorker

`meshlib run -- gunicorn app:app` (also `flask run`, `python app.py`) does both to an unmodified program.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshlib_wsgi.middleware import MeshMiddleware

if TYPE_CHECKING:
    from meshlib_wsgi.workers import MeshSyncWorker, MeshThreadWorker

__all__ = ["MeshMiddleware", "MeshSyncWorker", "MeshThreadWorker"]

# The middleware works under every WSGI server: gunicorn is imported by those who use it.
_WORKERS = ("MeshSyncWorker", "MeshThreadWorker")


def __getattr__(name: str) -> Any:
    if name not in _WORKERS:
        raise AttributeError(f"module 'meshlib_wsgi' has no attribute {name!r}")
    return getattr(import_module("meshlib_wsgi.workers"), name)
