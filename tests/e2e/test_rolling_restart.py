"""Deploying a new version: instances end and start one after the other under load."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.cluster import HOST, Cluster
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
INSTANCES = ("httpbin-a", "httpbin-b")
SERVERS = {
    "uvicorn": ("uvicorn", "httpbin:app", "--log-level", "warning", "--port", "{port}"),
    "gunicorn sync": ("gunicorn", "wsgibin:app", "--log-level", "warning", "-b", "127.0.0.1:{port}"),
}

NO_SECOND_TRY = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin}
spec:
  hosts: [httpbin]
  http:
  - retries: {attempts: 0}
    route: [{destination: {host: httpbin}}]
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", SERVERS)
def test_no_request_fails_while_instances_are_restarted(cluster: Cluster, server: str) -> None:
    """Each of two is ended with SIGTERM and started again at the same port, three times, under steady load.

    Nothing is retried, so that an instance which is asked after its end shows.
    """
    cluster.start_control_plane()
    ports = {name: str(free_port()) for name in INSTANCES}

    def start(name: str) -> None:
        command = (sys.executable, "-m", *(part.format(port=ports[name]) for part in SERVERS[server]))
        cluster.join(name, "httpbin", command, "--port", "8000", env={"NAME": name}, folder=PROGRAMS)

    for name in INSTANCES:
        start(name)
    front = free_port()
    relay = (sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{front}", "--threads", "8", "relay:app")
    cluster.join("front", "front", relay, "--port", "8000", folder=PROGRAMS)
    cluster.wait_until_listed(*INSTANCES, "front")
    cluster.apply_text(NO_SECOND_TRY)
    with Load(f"http://{HOST}:{front}/relay") as load:
        for _ in range(3):
            for name in INSTANCES:
                eventually(lambda: set(load.names[-40:]) == set(INSTANCES), "both answer")
                cluster.end(name, signal.SIGTERM)
                start(name)
                cluster.wait_until_listed(name)
        eventually(lambda: set(load.names[-40:]) == set(INSTANCES), "both answer in the end")
    assert load.failures == []
