"""Certificates of five seconds and roots of a few more, under load: no request fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
LIFE = 5  # seconds
RATE = 200  # requests a second
SECONDS = int(os.environ.get("MESHLIB_TEST_ROTATION_SECONDS", "10"))
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def rotating(tmp_path: Path) -> Iterator[Cluster]:
    """A service of two processes that serve members only."""
    found = Cluster(tmp_path)
    found.env["MESHLIB_CERTIFICATE_LIFETIME"] = str(LIFE)
    try:
        found.start_control_plane()
        found.apply_text(STRICT)
        for name in ("one", "two"):
            command = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(free_port()), "--log-level", "warning")
            found.join(name, "httpbin", command, "--port", "8000", env={"NAME": name}, folder=PROGRAMS)
        found.wait_until_listed("one", "two")
        yield found
    finally:
        found.stop()


def authority(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(cluster.cli("ca", *arguments, "-o", "json").stdout)


def rotate_until_it_ends(cluster: Cluster, client: subprocess.Popen[str]) -> set[str]:
    """Replace the root, and again when that is done, as long as the client runs. Returns the roots that signed."""
    roots = set[str]()
    while client.poll() is None:
        found = authority(cluster, "show")
        roots.update(one["fingerprint"] for one in found["roots"] if one["signs"])
        if found["phase"] == "steady":
            authority(cluster, "rotate")
        time.sleep(0.3)
    return roots


def paced(cluster: Cluster, rate: int, seconds: int) -> subprocess.Popen[str]:
    """A client of the service that calls at a pace."""
    program = (sys.executable, str(PROGRAMS / "paced.py"), str(rate), str(seconds), "http://httpbin:8000/")
    return subprocess.Popen(cluster.run_command("caller", program), env=cluster.env, stdout=subprocess.PIPE, text=True)


def told(client: subprocess.Popen[str]) -> Any:
    """What it says at its end."""
    assert client.stdout is not None
    return json.loads(client.stdout.read())


def test_no_request_fails_while_certificates_and_roots_are_replaced(rotating: Cluster) -> None:
    """200 requests a second, blocking and not, for ten seconds or as long as it is told."""
    with paced(rotating, RATE, SECONDS) as client:
        roots = rotate_until_it_ends(rotating, client)
        found = told(client)
    assert found["failures"] == []
    assert found["sent"] == sum(found["names"].values()) == RATE * SECONDS
    assert set(found["names"]) == {"one", "two"}
    assert len(roots) >= max(2, SECONDS // 12)


def test_a_control_plane_that_is_killed_in_each_step_goes_on(rotating: Cluster) -> None:
    """Without a warning, right after it said that the step was taken; nobody's requests notice."""
    (before,) = authority(rotating, "show")["roots"]
    with paced(rotating, 50, 15) as client:
        assert authority(rotating, "rotate")["phase"] == "distributing"
        kill_and_start(rotating, "second")
        eventually(lambda: authority(rotating, "show")["phase"] == "retiring", "the switch")
        kill_and_start(rotating, "third")
        eventually(lambda: authority(rotating, "show")["phase"] == "steady", "the end")
        found = told(client)
    (after,) = authority(rotating, "show")["roots"]
    assert before["fingerprint"] != after["fingerprint"]
    assert found["failures"] == []
    assert found["sent"] == sum(found["names"].values()) == 50 * 15


def kill_and_start(cluster: Cluster, name: str) -> None:
    cluster.kill("controlplane" if name == "second" else "second")
    cluster.start_control_plane(name=name)
