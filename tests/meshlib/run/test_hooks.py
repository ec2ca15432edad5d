"""The integrations that are installed with us, loaded by the hooks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

from meshlib.run.names import GROUP, WATCHED
from meshlib.run.program import FOLDER, integrations

NAMES = sorted({entry.name for entry in entry_points(group=GROUP)})

REPORT = """
import sys
import {module}
threads = __import__("threading").active_count()
print(threads, "meshlib.run.hooks" in sys.modules, "grpc" in sys.modules)
"""


def test_ours_are_there() -> None:
    """The package says which modules are patched."""
    assert {"gunicorn", "httpx", "httpx2", "requests", "uvicorn", "werkzeug"} <= set(NAMES)
    assert integrations({"MESHLIB_DISABLED_INTEGRATIONS": "httpx, requests"}) == sorted(set(NAMES) - {"httpx", "requests"})


@pytest.mark.parametrize("module", NAMES)
def test_each_patches_its_module_without_joining(module: str) -> None:
    """No warning; no thread and no gRPC before a server serves or a client sends: the process may still fork."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    env = {**os.environ, "PYTHONPATH": FOLDER, WATCHED: ",".join(NAMES), "MESHLIB_STRICT": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REPORT.format(module=module)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = module == "grpc"  # a module, not yet an object of it
    assert (result.stdout, result.stderr) == (f"1 True {loaded}\n", "")
