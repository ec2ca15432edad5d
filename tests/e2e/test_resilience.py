"""What goes wrong, and what the mesh makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import HOST, Cluster, answers
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
ALL_TO_V2 = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin}
spec:
  hosts: [httpbin]
  http: [{route: [{destination: {host: httpbin, subset: v2}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin}
spec:
  host: httpbin
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""

LEGACY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: legacy}}
spec:
  hosts: [legacy.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 8000, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
"""


def uvicorn(app: str, port: int = 0, *options: str) -> tuple[str, ...]:
    """An ordinary command line."""
    return (sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *options)


def start_two_versions(cluster: Cluster) -> int:
    """httpbin v1 and v2, and a Flask service in front, whose port is returned."""
    for version in ("v1", "v2"):
        options = ("--port", "8000", "--label", f"version={version}")
        cluster.join(f"httpbin-{version}", "httpbin", uvicorn("httpbin:app"), *options, env={"NAME": version}, folder=PROGRAMS)
    port = free_port()
    front = (sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{port}", "--threads", "8", "relay:app")
    cluster.join("front", "front", front, "--port", "8000", folder=PROGRAMS)
    cluster.wait_for("httpbin-v1", "httpbin-v2", "front")
    return port


def test_control_plane_killed_under_load(cluster: Cluster) -> None:
    """No request fails while it is gone; after its restart a change arrives again."""
    cluster.start_control_plane()
    port = start_two_versions(cluster)
    with Load(f"http://{HOST}:{port}/relay") as load:
        eventually(lambda: {"v1", "v2"} <= set(load.names), "both versions answer")
        cluster.kill("controlplane")
        before = len(load.names)
        eventually(lambda: len(load.names) > before + 200, "the services go on without it")
        cluster.start_control_plane(name="controlplane-again")
        cluster.wait_for("httpbin-v1", "httpbin-v2", "front")
        cluster.apply_text(ALL_TO_V2)
        eventually(lambda: set(load.names[-50:]) == {"v2"}, "the change arrives")
    assert load.failures == []


def test_a_dead_process_disappears_at_once(cluster: Cluster) -> None:
    """The stream is the lease: kill -9 takes an instance out of `ps` and out of balancing."""
    cluster.start_control_plane()
    port = start_two_versions(cluster)
    cluster.kill("httpbin-v1")
    eventually(lambda: "httpbin-v1" not in {row["name"] for row in cluster.ps()}, "gone from ps", 3)
    time.sleep(0.5)  # the push to the others
    with Load(f"http://{HOST}:{port}/relay") as load:
        eventually(lambda: len(load.names) > 50, "answers")
    assert set(load.names) == {"v2"}
    assert load.failures == []


def test_a_service_without_instances_is_no_outsider(cluster: Cluster) -> None:
    """Calls fail with UH; nothing is sent in plain text to whatever DNS says of the name."""
    cluster.start_control_plane()
    port = start_two_versions(cluster)
    url = f"http://{HOST}:{port}/relay"
    eventually(lambda: answers(url), "answers")
    for name in ("httpbin-v1", "httpbin-v2"):
        cluster.kill(name)

    def no_endpoint() -> bool:
        response = httpx.get(url, timeout=10)
        return response.status_code == 502 and "UH" in str(response.json()["notes"])

    eventually(no_endpoint, "no healthy upstream")
    time.sleep(1.0)  # whatever else the control plane still has to say
    assert no_endpoint()
    late = cluster.run_command("late", (sys.executable, str(PROGRAMS / "fetch.py"), "http://httpbin:8000/"))
    result = subprocess.run(late, env=cluster.env, capture_output=True, text=True, timeout=60, check=True)
    assert "UH" in str(json.loads(result.stdout)["notes"]), "also for a client that starts now"


def test_an_error_in_yaml_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """All or nothing, and the answer names file, line, field and what was probably meant."""
    cluster.start_control_plane()
    cluster.apply_text(ALL_TO_V2)
    before = cluster.cli("get", "all", "-A", "-o", "json").stdout
    file = tmp_path / "broken.yaml"
    file.write_text(ALL_TO_V2.replace("version: v1", "version: v9") + "  trafficPolcy: {}\n")
    result = cluster.cli("apply", "-f", str(file), check=False)
    assert result.returncode == 65
    line = len(file.read_text().splitlines())
    assert f"broken.yaml:{line}" in result.stderr
    assert "spec.trafficPolcy" in result.stderr
    assert "trafficPolicy" in result.stderr.replace("trafficPolcy", "")
    assert cluster.cli("get", "all", "-A", "-o", "json").stdout == before


def test_starts_from_the_cache_without_a_control_plane(cluster: Cluster) -> None:
    """A service started while the control plane is down serves plain text and routes by the last good configuration.

    Without a control plane there is no certificate (keys never touch a disk), so the destination here is one without mutual
    TLS. Only the mesh knows its name.
    """
    cluster.start_control_plane()
    backend = free_port()
    cluster.group.start("legacy", uvicorn("httpbin:app", backend), cluster.env | {"NAME": "legacy"}, PROGRAMS)
    cluster.apply_text(LEGACY.format(port=backend))
    port = free_port()
    server = (sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{port}", "--threads", "2", "relay:app")
    command = cluster.run_command("front", server, "--port", "8000")
    env = cluster.env | {"TARGET": "http://legacy.example:8000/x"}
    cluster.group.start("front", command, env, PROGRAMS)
    eventually(lambda: answers(f"http://{HOST}:{port}/relay"), "answers with a control plane")

    cluster.kill("front")
    cluster.kill("controlplane")
    eventually(lambda: not answers(f"http://{HOST}:{port}/relay"), "gone")
    cluster.group.start("front-again", command, env, PROGRAMS)
    eventually(lambda: answers(f"http://{HOST}:{port}/relay"), "answers without one")


@pytest.mark.parametrize("damage", [b"", b"\x00not a cache", None], ids=["empty", "garbage", "truncated"])
def test_a_corrupt_cache(cluster: Cluster, damage: bytes | None) -> None:
    """It is set aside with one sentence; the service works."""
    cluster.start_control_plane()
    start_two_versions(cluster)
    cluster.kill("front")
    caches = [path for path in (cluster.home / "cache").rglob("*") if path.is_file() and "front" in str(path)]
    assert caches
    for path in caches:
        path.write_bytes(path.read_bytes()[:-10] if damage is None else damage)
    port = free_port()
    front = (sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{port}", "--threads", "2", "relay:app")
    cluster.join("front-again", "front", front, "--port", "8000", folder=PROGRAMS)
    cluster.wait_for("front-again")
    assert answers(f"http://{HOST}:{port}/relay")
    assert "cache" in cluster.group.log("front-again").read_text()


def test_a_wrong_token(cluster: Cluster) -> None:
    """The program starts all the same, and its log says what is wrong with the credential and what to do."""
    cluster.start_control_plane()
    command = list(cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "fetch.py"), "http://httpbin:8000/")))
    token = Path(command[command.index("--token-file") + 1])
    head, body, _ = token.read_text().strip().split(".")
    token.write_text(f"{head}.{body}.{'A' * 86}")
    result = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["status"] == 0
    assert "token" in result.stderr
    assert "meshlib token create" in result.stderr


def test_strict_refuses_to_start_without_a_control_plane(cluster: Cluster) -> None:
    """`--strict` turns the warning into a failure, for a program that never uses the mesh as well."""
    cluster.start_control_plane()
    command = cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "fetch.py")), "--strict")
    cluster.group.stop()
    result = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (69, "")
    assert f"the control plane at {HOST}:{cluster.xds_port} cannot be reached" in result.stderr
    assert "Start it with `meshlib controlplane`" in result.stderr
