"""meshlib for ASGI: the request's side (`MeshMiddleware`) and the connection's side (`MeshProtocol`, `MeshWorker`).

    app = FastAPI(middleware=[Middleware(MeshMiddleware)])      # context, peer, telemetry; any ASGI server
    uvicorn app:app --http meshlib_asgi:MeshProtocol            # mutual TLS and plain text on one port
    gunicorn app:app -k meshlib_asgi.MeshWorker                 # the same under gunicorn

`meshlib run -- uvicorn app:app` does both to an unmodified program.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshlib_asgi.middleware import MeshMiddleware

if TYPE_CHECKING:
    from meshlib_asgi.protocol import MeshProtocol
    from meshlib_asgi.worker import MeshWorker

__all__ = ["MeshMiddleware", "MeshProtocol", "MeshWorker"]

# The middleware works under every ASGI server: uvicorn and gunicorn are imported by those who use them.
_PLACES = {"MeshProtocol": "meshlib_asgi.protocol", "MeshWorker": "meshlib_asgi.worker"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'meshlib_asgi' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
