"""httpx and httpx2 on the mesh.

    httpx.AsyncClient(transport=meshlib_httpx.AsyncMeshTransport())
    httpx.Client(transport=meshlib_httpx.MeshTransport())

For httpx2 the same two classes are in `meshlib_httpx.httpx2`. Neither library is imported before its transport is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshlib_httpx._httpx import AsyncMeshTransport, MeshTransport

__all__ = ["AsyncMeshTransport", "MeshTransport"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'meshlib_httpx' has no attribute {name!r}")
    from meshlib_httpx import _httpx

    return getattr(_httpx, name)
