"""Make the folder that a FolderMesh reads, for tests that run the server in their own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.pki import Authority
from tests.support.server_mesh import FolderMesh


def mesh_in(folder: Path, mode: str = "PERMISSIVE") -> tuple[Any, Authority]:
    """A mesh with one certificate, and the authority that signed it. Any: it stands in for a Mesh."""
    authority = Authority()
    leaf = authority.issue("reviews")
    (folder / "mode").write_text(mode)
    (folder / "1.identity").write_text(json.dumps([leaf.chain.decode(), leaf.key.decode(), authority.root.decode()]))
    return FolderMesh(folder), authority
