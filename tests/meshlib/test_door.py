"""`import meshlib`: what it offers and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import meshlib

MEASURE = """
import sys, time
began = time.process_time()
import meshlib
took = time.process_time() - began
import json
print(json.dumps({"seconds": took, "modules": sorted(sys.modules)}))
"""
HEAVY = (
    "grpc",
    "google.protobuf",
    "opentelemetry",
    "httpx",
    "httpx2",
    "requests",
    "cryptography",
    "ssl",
    "asyncio",
    "threading",
)
LIMIT = 0.060  # seconds


def measure(code: str = MEASURE) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_importing_is_cheap() -> None:
    """Below 60 ms of processor, the best of five: other load on the machine is not ours."""
    seconds = [measure()["seconds"] for _ in range(5)]
    assert min(float(str(one)) for one in seconds) < LIMIT


def test_importing_pulls_in_nothing_heavy() -> None:
    """Neither gRPC nor protobuf, OpenTelemetry or a framework."""
    modules = measure()["modules"]
    assert isinstance(modules, list)
    assert [name for name in modules if name.startswith(HEAVY)] == []


def test_making_a_mesh_loads_no_grpc() -> None:
    """A process may fork after it: gRPC is not even imported."""
    code = MEASURE.replace("import json", "import json\nmeshlib.Mesh(meshlib.Settings()).destination('reviews:9080')")
    modules = measure(code)["modules"]
    assert isinstance(modules, list)
    assert "meshlib.runtime.mesh" in modules
    assert [name for name in modules if name.startswith(("grpc", "google.protobuf"))] == []


@pytest.mark.parametrize("name", meshlib.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each is found and listed, and documented."""
    assert getattr(meshlib, name) is not None
    assert name in dir(meshlib)


def test_the_door_is_narrow() -> None:
    """About a dozen names; any other is an AttributeError."""
    assert len(meshlib.__all__) <= 16
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = meshlib.nothing
