"""gunicorn's worker classes for the contract's mesh; named by gunicorn's command line."""

from __future__ import annotations

from typing import Any, ClassVar

from meshlib_asgi import MeshProtocol, MeshWorker
from meshlib_wsgi import MeshSyncWorker, MeshThreadWorker
from tests.support.server_apps import MESH, PATIENCE


class Protocol(MeshProtocol):
    mesh = MESH
    patience = PATIENCE


class SyncWorker(MeshSyncWorker):
    mesh = MESH
    patience = PATIENCE


class ThreadWorker(MeshThreadWorker):
    mesh = MESH
    patience = PATIENCE


class AsgiWorker(MeshWorker):
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "asyncio", "http": Protocol}
