"""The ways in which Python services are started: prefork, workers, threads, several event loops. All unmodified."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import HOST, Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
GUNICORN = (sys.executable, "-m", "gunicorn", "--log-level", "warning")
UVICORN = (sys.executable, "-m", "uvicorn", "--log-level", "warning")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane and httpbin with two uvicorn workers."""
    cluster = Cluster(tmp_path_factory.mktemp("servers"))
    try:
        cluster.start_control_plane()
        port = str(free_port())
        cluster.join(
            "httpbin",
            "httpbin",
            (*UVICORN, "httpbin:app", "--workers", "2", "--port", port),
            "--port",
            "8000",
            folder=PROGRAMS,
        )
        cluster.wait_for("httpbin")
        yield cluster
    finally:
        cluster.stop()


SERVERS = {
    "gunicorn-sync-4": (*GUNICORN, "flaskapp:app", "-w", "4", "-b"),
    "gunicorn-preload-4": (*GUNICORN, "flaskapp:app", "-w", "4", "--preload", "-b"),
    "gunicorn-gthread": (*GUNICORN, "flaskapp:app", "-w", "2", "--threads", "4", "-b"),
    "gunicorn-uvicorn": (*GUNICORN, "asgiflask:app", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_prefork_servers(mesh: Cluster, server: str) -> None:
    """Every worker joins, calls others over mutual TLS from threads, and hands the caller's header on."""
    port = free_port()
    mesh.join(
        server, server, (*SERVERS[server], f"{HOST}:{port}"), "--port", "8000", "--forward-header", "end-user", folder=PROGRAMS
    )
    mesh.wait_for(server)
    pids = set()
    with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=20, headers={"connection": "close"}) as client:
        for _ in range(40):
            pids.add(client.get("/pid").json()["pid"])
            told = client.get("/ask", headers={"end-user": "jason"}).json()
            assert told["users"] == ["jason"] * 4
            assert all(f"URI=spiffe://cluster.local/ns/default/sa/{server}" in value for value in told["clients"])
    assert len(pids) > 1, "more than one worker answered"


def test_uvicorn_workers_serve_mutual_tls(mesh: Cluster) -> None:
    """Both processes of `uvicorn --workers 2` answer members of the mesh, over mutual TLS."""
    told = two_loops(mesh)
    assert told["failures"] == []
    assert len(told["pids"]) == 2


def test_two_event_loops(mesh: Cluster) -> None:
    """Async clients work in several event loops of one process, at the same time and one after the other."""
    told = two_loops(mesh)
    assert told["failures"] == []
    assert told["answers"] == 42


def two_loops(mesh: Cluster) -> dict[str, Any]:
    """What twoloops.py says."""
    command = mesh.run_command("loops", (sys.executable, str(PROGRAMS / "twoloops.py")))
    result = subprocess.run(command, env=mesh.env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_flask_development_server(mesh: Cluster) -> None:
    """`flask run` joins as well."""
    port = free_port()
    command = (sys.executable, "-m", "flask", "--app", "flaskapp", "run", "--port", str(port))
    mesh.join("dev", "dev", command, "--port", "8000", folder=PROGRAMS)
    mesh.wait_for("dev")
    fetch = mesh.run_command("sleep", (sys.executable, str(PROGRAMS / "fetch.py"), "http://dev:8000/pid"))
    result = subprocess.run(fetch, env=mesh.env, capture_output=True, text=True, timeout=60, check=True)
    assert '"status": 200' in result.stdout
    eventually(lambda: "dev" in {row["name"] for row in mesh.ps()}, "still a member")
