"""Identities from a SPIFFE Workload API. A second control plane with roots of its own plays SPIRE: it and `cert serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import CLI, HOST, Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
LIFETIME = 10  # seconds


class Spire:
    """An authority that the mesh did not make, and an agent of it for each account."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.cluster = Cluster(folder)
        self._folder = folder
        self.cluster.start_control_plane(*options)

    @property
    def bundle(self) -> Path:
        """Its roots."""
        return self.cluster.data / "root-cert.pem"

    def socket(self, account: str) -> Path:
        return self._folder / f"{account}.sock"

    def start_agent(self, account: str, name: str = "") -> None:
        """Serves the account's identity, for certificates of 10 s."""
        where = ("--control-plane", f"{HOST}:{self.cluster.xds_port}", "--root-cert", str(self.bundle))
        command = (*CLI, "cert", "serve", f"unix://{self.socket(account)}", "--token-file", str(self.cluster.token(account)))
        self.cluster.group.start(
            name or account, (*command, *where), self.cluster.env | {"MESHLIB_CERTIFICATE_LIFETIME": str(LIFETIME)}
        )
        eventually(
            lambda: "Serving it" in self.told(name or account), f"served; see {self.cluster.group.log(name or account)}"
        )

    def told(self, name: str) -> str:
        """What an agent has said up to now."""
        return self.cluster.group.log(name).read_text()


@pytest.fixture
def spire(tmp_path: Path) -> Iterator[Spire]:
    foreign = Spire(tmp_path / "spire")
    try:
        yield foreign
    finally:
        foreign.cluster.stop()


def environment(cluster: Cluster, socket: Path) -> dict[str, str]:
    """Of a program that has its identity from a Workload API, and no token."""
    return cluster.env | {
        "MESHLIB_IDENTITY_SOURCE": "workload-api",
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{socket}",
        "MESHLIB_CONTROL_PLANE": f"{HOST}:{cluster.xds_port}",
        "MESHLIB_ROOT_CERT": str(cluster.data / "root-cert.pem"),
    }


def start_httpbin(cluster: Cluster, spire: Spire) -> None:
    server = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(free_port()), "--log-level", "warning")
    command = (*CLI, "run", "--service", "httpbin", "--port", "8000", "--instance", "httpbin", "--", *server)
    cluster.group.start("httpbin", command, environment(cluster, spire.socket("httpbin")), PROGRAMS)


def run(cluster: Cluster, env: dict[str, str], program: str, *arguments: str) -> Any:
    """What a client prints last, as JSON."""
    command = (*CLI, "run", "--", sys.executable, str(PROGRAMS / program), *arguments)
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_two_processes_of_spire(cluster: Cluster, spire: Spire) -> None:
    """They call each other with mutual TLS as who their agents say, while certificates rotate and an agent is killed.

    Who has a certificate of our own CA calls them, too.
    """
    cluster.start_control_plane("--trust-bundle", str(spire.bundle))
    for account in ("httpbin", "sleep"):
        spire.start_agent(account)
    start_httpbin(cluster, spire)
    cluster.wait_until_listed("httpbin")
    cluster.apply_text(STRICT)

    ours = environment(cluster, spire.socket("sleep"))
    begun = subprocess.Popen(
        (*CLI, "run", "--", sys.executable, str(PROGRAMS / "steady.py"), "http://httpbin:8000/get", "25"),
        env=ours,
        stdout=subprocess.PIPE,
        text=True,
    )
    for account in ("httpbin", "sleep"):
        spire.cluster.kill(account)
        spire.start_agent(account, f"{account}-again")
    told, _ = begun.communicate(timeout=100)
    summary = json.loads(told.splitlines()[-1])
    assert summary["failures"] == []
    assert summary["requests"] > 500
    assert summary["identities"] >= 3  # at first, of the new agent, and at least one that it pushed

    answer = run(cluster, ours, "fetch.py", "http://httpbin:8000/get")
    assert answer["status"] == 200, (answer, spire.told("sleep-again"))
    forwarded = json.loads(answer["body"])["headers"]["x-forwarded-client-cert"]
    assert "By=spiffe://cluster.local/ns/default/sa/httpbin" in forwarded
    assert "URI=spiffe://cluster.local/ns/default/sa/sleep" in forwarded

    member = environment(cluster, Path("/nowhere")) | {"MESHLIB_TOKEN_FILE": str(cluster.token("curl"))}
    del member["MESHLIB_IDENTITY_SOURCE"]
    answer = run(cluster, member, "fetch.py", "http://httpbin:8000/get")
    assert answer["status"] == 200, answer
    assert "sa/curl" in json.loads(answer["body"])["headers"]["x-forwarded-client-cert"]


def strict(cluster: Cluster, env: dict[str, str]) -> str:
    """Why a program that must join is not started."""
    command = (*CLI, "run", "--strict", "--", sys.executable, "-c", "")
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode != 0
    return result.stderr


def test_roots_that_the_control_plane_does_not_know(cluster: Cluster, spire: Spire, tmp_path: Path) -> None:
    """The process is refused with what to do, and joins as soon as the file has the roots: it is read again."""
    bundle = tmp_path / "bundle.pem"
    cluster.start_control_plane()
    bundle.write_bytes((cluster.data / "root-cert.pem").read_bytes())
    cluster.end("controlplane", signal.SIGTERM)
    cluster.start_control_plane("--trust-bundle", str(bundle), name="again")

    spire.start_agent("httpbin")
    start_httpbin(cluster, spire)
    log = cluster.group.log("httpbin")
    eventually(lambda: "not one that this root vouches for" in log.read_text(), "refused")
    assert "start the control plane with --trust-domain as the agent's, and with its roots: --trust-bundle" in log.read_text()

    bundle.write_text("not yet")
    eventually(lambda: "the roots of before stay trusted" in cluster.group.log("again").read_text(), "a bad file is told")
    bundle.write_bytes(spire.bundle.read_bytes())
    cluster.wait_until_listed("httpbin")


def test_another_trust_domain(cluster: Cluster, tmp_path: Path) -> None:
    """A certificate of another trust domain is refused and both are named, also where its root is trusted."""
    spire = Spire(tmp_path / "spire", "--trust-domain", "example.org")
    try:
        cluster.start_control_plane("--trust-bundle", str(spire.bundle))
        spire.start_agent("httpbin")
        start_httpbin(cluster, spire)
        log = cluster.group.log("httpbin")
        eventually(lambda: "is of trust domain 'example.org', this one is 'cluster.local'" in log.read_text(), "refused")
        assert "--trust-domain as the agent's" in log.read_text()
    finally:
        spire.cluster.stop()


def test_no_agent(cluster: Cluster, tmp_path: Path) -> None:
    """With --strict the program is not started, and the socket is named."""
    said = strict(cluster, environment(cluster, tmp_path / "nothing.sock"))
    assert f"the Workload API at unix:{tmp_path}/nothing.sock cannot be reached" in said
    assert "Is the agent running" in said


def test_a_bundle_that_is_none(cluster: Cluster, tmp_path: Path) -> None:
    """The control plane does not start, and says how SPIRE writes one."""
    for content in (None, "no roots"):
        if content is not None:
            (tmp_path / "bundle.pem").write_text(content)
        result = cluster.cli(
            "controlplane", "--trust-bundle", str(tmp_path / "bundle.pem"), "--data", str(cluster.data), check=False
        )
        assert result.returncode != 0
        assert "spire-server bundle show -format pem" in result.stderr + result.stdout
    assert os.listdir(cluster.data) != ["current.json"]
