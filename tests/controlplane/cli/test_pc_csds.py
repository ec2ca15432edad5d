"""`meshlib pc ... --csds`: what a real grpcio program says of its own xDS client, next to what the control plane knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message
from meshlib_control.cli.client_status import SERVICE
from meshlib_control.translate import cluster
from meshlib_grpc import native
from tests.support.cluster import eventually, free_port
from tests.support.grpc_mesh import GrpcMesh, grpc_mesh

from .conftest import Meshlib

CLUSTER = "outbound|9080||reviews.default.svc.cluster.local"
KINDS = ("listener", "route", "cluster", "endpoint")
ANY_CHANGE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 3s}}}}
"""


class Program:
    """A gRPC program with a client for reviews:9080 and one for ratings:9080; it serves CSDS at `address`."""

    def __init__(self, mesh: GrpcMesh, mode: str, name: str) -> None:
        self.name = name
        self.address = f"127.0.0.1:{free_port()}"
        arguments = (mode, self.address, "reviews:9080", "ratings:9080")
        self._process, self._log = mesh.start(self.name, "grpc_csds.py", *arguments, env=mesh.environment(self.name, "client"))

    def call(self) -> list[str]:
        """What came of a call of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        codes: list[str] = json.loads(self._process.stdout.readline() or "[]")
        assert codes, self._log.read_text()
        return codes


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcMesh]:
    with grpc_mesh(tmp_path_factory.mktemp("mesh")) as running:
        for name in ("reviews", "ratings"):
            running.service(f"{name}-v1", "v1", engine="engine", service=name)
        yield running


@pytest.fixture(scope="module", params=["sync", "aio"])
def program(mesh: GrpcMesh, request: pytest.FixtureRequest) -> Program:
    found = Program(mesh, request.param, f"caller-{request.param}")
    assert found.call() == ["OK", "OK"]
    mesh.settle()
    return found


@pytest.fixture(autouse=True)
def found_by_the_commands(mesh: GrpcMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHLIB_HOME", str(mesh.folder / "home"))


def asked(meshlib: Meshlib, kind: str, program: Program) -> dict[str, dict[str, Any]]:
    """The resources of both of its clients, by name."""
    result = meshlib("pc", kind, program.name, "--csds", program.address, "-o", "json")
    assert result.code == 0, result.err
    return {one["name"]: one for item in json.loads(result.out)["items"] for one in item["resources"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_uses_what_it_was_sent(meshlib: Meshlib, program: Program, kind: str) -> None:
    """Each of its two clients, which share a node id; the tables fit a terminal."""
    result = meshlib("pc", kind, program.name, "--csds", program.address)
    assert result.code == 0, result.err
    rows = [line for line in result.out.splitlines() if not line.endswith("IN USE")]
    assert [row.split()[-2:] for row in rows] == [["synced", "same"]] * 2, result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert "in use" not in result.err


def test_a_rejected_resource_is_told_with_its_reason_and_the_difference(
    meshlib: Meshlib, mesh: GrpcMesh, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpcio uses on what it had; once the resource is right again, it uses the new one."""
    discovery = cluster._discovery

    def unknown_to_grpcio(*arguments: Any) -> dict[str, Any]:
        return {**discovery(*arguments), "lb_policy": "MAGLEV"}

    with monkeypatch.context() as patched:
        patched.setattr(cluster, "_discovery", unknown_to_grpcio)
        mesh.apply(ANY_CHANGE)
        eventually(lambda: asked(meshlib, "cluster", program)[CLUSTER]["status"] == "rejected", "a rejection")
    entry = asked(meshlib, "cluster", program)[CLUSTER]
    assert (entry["inUse"], "lb_policy" in entry["error"]) == ("older", True)
    told = meshlib("pc", "cluster", program.name, "--csds", program.address)
    assert f"{CLUSTER} was rejected: " in told.err
    assert '+  "lbPolicy": "MAGLEV"' in told.err
    assert program.call() == ["OK", "OK"]
    mesh.reset()
    eventually(lambda: asked(meshlib, "cluster", program)[CLUSTER]["inUse"] == "same", "the right one")
    assert mesh.rejected() == []


def test_a_program_that_uses_something_else_is_found_out(
    meshlib: Meshlib, mesh: GrpcMesh, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it acknowledged nor what it should have: the difference is told. An answer is put into its mouth."""
    status = message("envoy.service.status.v3.ClientStatusResponse")
    with grpc.insecure_channel(program.address) as channel:
        true = status.FromString(channel.unary_unary(f"/{SERVICE}/FetchClientStatus")(b""))
    for config in true.config:
        for entry in config.generic_xds_configs:
            if entry.name == CLUSTER and entry.xds_config.type_url.endswith("Cluster"):
                made = message("envoy.config.cluster.v3.Cluster").FromString(entry.xds_config.value)
                made.connect_timeout.seconds = 77
                entry.xds_config.value = made.SerializeToString()
    monkeypatch.setattr("meshlib_control.cli.client_status._fetched", lambda address: true.SerializeToString())
    found = meshlib("pc", "cluster", program.name, "--csds", program.address)
    assert {line.split()[0]: line.split()[-1] for line in found.out.splitlines() if "default" in line} == {
        "reviews.default": "differs",
        "ratings.default": "same",
    }
    assert f"{CLUSTER}: - in use, + wanted" in found.err
    assert '-  "connectTimeout": "77s",' in found.err


def test_the_stream_answers_each_request(program: Program) -> None:
    """The service's other method, for other tools."""
    with grpc.insecure_channel(program.address) as channel:
        answers = list(channel.stream_stream(f"/{SERVICE}/StreamClientStatus")(iter([b"", b""]), timeout=10))
    assert len(answers) == 2
    configs = message("envoy.service.status.v3.ClientStatusResponse").FromString(answers[1]).config
    assert {config.client_scope for config in configs} == {"xds:/reviews:9080", "xds:/ratings:9080"}


def test_what_is_none(meshlib: Meshlib, mesh: GrpcMesh, program: Program) -> None:
    """Each wrong word is answered with what to do."""

    def refused(*words: str) -> tuple[int, str]:
        result = meshlib("pc", "cluster", *words)
        assert result.out == ""
        return result.code, result.err

    nobody = f"127.0.0.1:{free_port()}"
    assert refused(program.name, "--csds", "15009")[0] == 64
    code, told = refused(program.name, "--csds", nobody)
    assert (code, f"no gRPC client's status at {nobody}" in told, "add_csds_servicer" in told) == (69, True, True)
    code, told = refused(program.name, "--csds", program.address, "--admin", "http://127.0.0.1:15000")
    assert (code, "--admin is for an Envoy" in told) == (64, True)
    code, told = refused("reviews-v1", "--csds", program.address)
    assert (code, "reviews-v1 (library)" in told) == (1, True)


def test_a_server_without_the_service_says_so(meshlib: Meshlib, program: Program) -> None:
    """And so does one whose process has not used xDS."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    other = grpc.server(ThreadPoolExecutor(1))
    native.add_csds_servicer(other)
    unused = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        without = meshlib("pc", "cluster", program.name, "--csds", f"127.0.0.1:{port}")
        assert (without.code, "serves gRPC, but not the client status discovery service" in without.err) == (1, True)
        empty = meshlib("pc", "cluster", program.name, "--csds", f"127.0.0.1:{unused}")
        assert (empty.code, "has not used xDS yet" in empty.err) == (1, True)
    finally:
        server.stop(None)
        other.stop(None)


def test_another_programs_address(meshlib: Meshlib, mesh: GrpcMesh, program: Program) -> None:
    """Who is there is told, and who is not."""
    stranger = Program(mesh, "sync", f"not-{program.name}")
    try:
        assert stranger.call() == ["OK", "OK"]
        result = meshlib("pc", "cluster", program.name, "--csds", stranger.address)
        assert (result.code, f"~{stranger.name}.default~" in result.err, "not grpc~" in result.err) == (1, True, True)
    finally:
        mesh.stop(stranger.name)
