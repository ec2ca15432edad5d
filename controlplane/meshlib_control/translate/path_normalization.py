"""What an HTTP connection manager does to paths before anything is decided about them (MeshConfig.pathNormalization).

Istio: buildHTTPConnectionManager. A policy compares what the program is given, so every engine must change paths alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meshlib_control.model import World

_BASE: Final = {"normalize_path": {"value": True}}
_MERGE: Final = {**_BASE, "merge_slashes": True}

_OPTIONS: Final[Mapping[str, dict[str, Any]]] = {
    "NONE": {"normalize_path": {"value": False}},
    "DEFAULT": _BASE,
    "BASE": _BASE,
    "MERGE_SLASHES": _MERGE,
    "DECODE_AND_MERGE_SLASHES": {**_MERGE, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"},
}


def path_normalization(world: World) -> dict[str, Any]:
    """Fields of the HttpConnectionManager. Escaped slashes are kept unless told otherwise, whatever the runtime says."""
    kept = {"path_with_escaped_slashes_action": "KEEP_UNCHANGED"}
    return {**kept, **_OPTIONS[world.mesh.path_normalization.normalization]}
