"""What users of meshlib_httpx see: types, imports, the one-liner."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import httpx
import httpx2

import meshlib_httpx.httpx2
from meshlib_httpx import AsyncMeshTransport, MeshTransport

asynchronous = httpx.AsyncClient(transport=AsyncMeshTransport())
blocking = httpx.Client(transport=MeshTransport(passthrough=httpx.HTTPTransport()))
newer = httpx2.AsyncClient(transport=meshlib_httpx.httpx2.AsyncMeshTransport())
newest = httpx2.Client(mounts={"http://": meshlib_httpx.httpx2.MeshTransport()})
"""


def test_one_liners_run_and_type_check(tmp_path: Path) -> None:
    """A user's program with strict mypy."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    subprocess.run([sys.executable, str(program)], check=True, env={"PATH": ""})
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert checked.returncode == 0, checked.stdout


def test_importing_imports_neither_library() -> None:
    """The adapter costs nothing before a transport is made."""
    code = (
        "import sys, meshlib_httpx, meshlib_requests; print([m for m in sys.modules if m in ('httpx', 'httpx2', 'requests')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
