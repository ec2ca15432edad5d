"""Istio's task "authentication policy", the part inside a mesh: who may call whom under which PeerAuthentication."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster import HOST, Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
POLICY = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""
LEGACY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: httpbin, namespace: legacy}}
spec:
  hosts: [httpbin.legacy.svc.cluster.local]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 8000, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
"""


@dataclass(frozen=True)
class Matrix:
    """httpbin in foo and bar (mesh) and legacy (none), and a client in each."""

    cluster: Cluster
    ports: dict[str, int]

    def statuses(self, source: str) -> dict[str, int]:
        """What each httpbin answers to a client of namespace `source`; 0: the connection was ended without an answer."""
        return {target: answer["status"] for target, answer in self.ask(source).items()}

    def ask(self, source: str) -> dict[str, dict[str, object]]:
        """The answers by target namespace."""
        meshed = source != "legacy"
        urls = {
            name: f"http://httpbin.{name}:8000/headers" if meshed else f"http://{HOST}:{port}/headers"
            for name, port in self.ports.items()
        }
        fetch = (sys.executable, str(PROGRAMS / "fetch.py"), *urls.values())
        command = self.cluster.run_command("sleep", fetch, namespace=source) if meshed else fetch
        result = subprocess.run(command, env=self.cluster.env, capture_output=True, text=True, timeout=60, check=True)
        return dict(zip(urls, (json.loads(line) for line in result.stdout.splitlines()), strict=True))

    def policy(self, namespace: str, name: str, spec: str) -> None:
        """Applies a PeerAuthentication."""
        self.cluster.apply_text(POLICY.format(namespace=namespace, name=name, spec=spec))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """Three services."""
    cluster = Cluster(tmp_path_factory.mktemp("authn"))
    ports = {name: free_port() for name in ("foo", "bar", "legacy")}
    try:
        cluster.start_control_plane()
        for name, port in ports.items():
            command = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(port), "--log-level", "warning")
            if name == "legacy":
                cluster.group.start(name, command, cluster.env, PROGRAMS)
            else:
                options = ("--port", "8000", "--label", "app=httpbin")
                cluster.join(name, "httpbin", command, *options, namespace=name, folder=PROGRAMS)
        cluster.wait_for("foo", "bar")
        yield Matrix(cluster, ports)
    finally:
        cluster.stop()


@pytest.fixture
def matrix(running: Matrix) -> Matrix:
    """Without any policy."""
    running.cluster.reset()
    running.cluster.apply_text(LEGACY.format(port=running.ports["legacy"]))
    return running


ALL = {"foo": 200, "bar": 200, "legacy": 200}


def test_without_policy_everybody_reaches_everybody(matrix: Matrix) -> None:
    """Nine times 200, and a client certificate is told exactly between members of the mesh."""
    answers = {source: matrix.ask(source) for source in ("foo", "bar", "legacy")}
    assert {source: {name: answer["status"] for name, answer in row.items()} for source, row in answers.items()} == {
        "foo": ALL,
        "bar": ALL,
        "legacy": ALL,
    }
    forwarded = {
        (source, target): json.loads(str(answer["body"]))["headers"].get("x-forwarded-client-cert", "")
        for source, row in answers.items()
        for target, answer in row.items()
    }
    meshed = {(source, target) for source in ("foo", "bar") for target in ("foo", "bar")}
    assert {pair for pair, value in forwarded.items() if value} == meshed
    assert forwarded["bar", "foo"].startswith("By=spiffe://cluster.local/ns/foo/sa/httpbin;Hash=")
    assert forwarded["bar", "foo"].endswith("URI=spiffe://cluster.local/ns/bar/sa/sleep")


def test_strict_for_the_mesh(matrix: Matrix) -> None:
    """Plain text reaches no member of the mesh; members still reach everybody."""
    matrix.policy("istio-system", "default", "{mtls: {mode: STRICT}}")
    assert matrix.statuses("legacy") == {"foo": 0, "bar": 0, "legacy": 200}
    assert matrix.statuses("foo") == ALL


def test_strict_for_a_namespace(matrix: Matrix) -> None:
    """Only that namespace refuses plain text."""
    matrix.policy("foo", "default", "{mtls: {mode: STRICT}}")
    assert matrix.statuses("legacy") == {"foo": 0, "bar": 200, "legacy": 200}
    assert matrix.statuses("bar") == ALL


def test_strict_for_a_workload_with_an_exception_for_a_port(matrix: Matrix) -> None:
    """Only that workload refuses plain text; a port of it that is set to DISABLE takes plain text alone."""
    strict = "selector: {matchLabels: {app: httpbin}}, mtls: {mode: STRICT}"
    matrix.policy("bar", "httpbin", f"{{{strict}}}")
    assert matrix.statuses("legacy") == {"foo": 200, "bar": 0, "legacy": 200}

    matrix.policy("bar", "httpbin", f"{{{strict}, portLevelMtls: {{{matrix.ports['bar']}: {{mode: DISABLE}}}}}}")
    assert matrix.statuses("legacy") == ALL
    assert matrix.statuses("foo") == ALL


def test_a_workload_may_be_excepted_from_its_namespace(matrix: Matrix) -> None:
    """DISABLE for the workload wins over STRICT for the namespace."""
    matrix.policy("foo", "default", "{mtls: {mode: STRICT}}")
    matrix.policy("foo", "httpbin", "{selector: {matchLabels: {app: httpbin}}, mtls: {mode: DISABLE}}")
    assert matrix.statuses("legacy") == ALL
    assert matrix.statuses("bar") == ALL


def test_certificates_are_renewed_under_load(cluster: Cluster) -> None:
    """With certificates of a few seconds' life, a steady stream of requests sees renewals and no failure."""
    cluster.start_control_plane()
    short = {"MESHLIB_CERTIFICATE_LIFETIME": "6"}
    server = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", "0", "--log-level", "warning")
    cluster.join("httpbin", "httpbin", server, "--port", "8000", folder=PROGRAMS, env=short)
    cluster.wait_for("httpbin")
    client = cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "steady.py"), "http://httpbin:8000/x", "15"))
    result = subprocess.run(client, env=cluster.env | short, capture_output=True, text=True, timeout=90, check=True)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["failures"] == []
    assert told["requests"] > 200
    assert told["identities"] >= 3, "the client's certificate changed while it ran"
    eventually(lambda: "httpbin" in {row["name"] for row in cluster.ps()}, "the server is still a member")
