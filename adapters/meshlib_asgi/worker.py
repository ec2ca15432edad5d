"""gunicorn's worker class for ASGI in the mesh, on top of the package `uvicorn-worker`."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

from meshlib_asgi.protocol import MeshProtocol


class MeshWorker(UvicornWorker):  # type: ignore[misc]  # the package has no type information
    """`gunicorn app:app -k meshlib_asgi.MeshWorker -w 4`: every worker serves mutual TLS and registers after the fork."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "auto", "http": MeshProtocol}
