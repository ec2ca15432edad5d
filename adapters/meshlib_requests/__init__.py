"""requests on the mesh.

session.mount("http://", meshlib_requests.MeshAdapter())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshlib_requests._adapter import MeshAdapter

__all__ = ["MeshAdapter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'meshlib_requests' has no attribute {name!r}")
    from meshlib_requests._adapter import MeshAdapter

    return MeshAdapter
