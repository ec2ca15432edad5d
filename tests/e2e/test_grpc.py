"""Unmodified gRPC programs as real processes: the example in one trace, and every kind of call under `meshlib run`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.support.cluster import HOST, REPOSITORY, Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
EXAMPLE = REPOSITORY / "examples" / "grpc-ratings"
BOOKINFO = REPOSITORY / "examples" / "bookinfo"
UVICORN = (sys.executable, "-m", "uvicorn", "--host", HOST, "--log-level", "warning")

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ratings}
spec: {selector: {matchLabels: {app: ratings}}, mtls: {mode: STRICT}}
"""

ABORT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - match: [{uri: {exact: /bookinfo.Ratings/Get}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: ratings}}]
"""

DELAYED_STARS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stars}
spec:
  hosts: [stars]
  http:
  - fault: {delay: {fixedDelay: 7s, percentage: {value: 100}}}
    route: [{destination: {host: stars}}]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str]]:
    """A control plane, the example's three programs, and where reviews is."""
    folder = tmp_path_factory.mktemp("grpc")
    cluster = Cluster(folder)
    cluster.env |= {"SPANS": str(folder / "spans"), "PYTHONPATH": str(PROGRAMS / "otel"), "MESHLIB_TRACE_SAMPLING": "100"}
    port = str(free_port())
    try:
        cluster.start_control_plane()
        options = ("--port", "9080")
        cluster.join("stars", "stars", (*UVICORN, "ratings:app", "--port", "0"), *options, folder=BOOKINFO)
        cluster.env["RATINGS_ADDRESS"] = f"{HOST}:{free_port()}"
        labelled = (*options, "--label", "app=ratings")
        log = {"MESHLIB_ACCESS_LOG": "text"}
        cluster.join("ratings", "ratings", (sys.executable, "ratings.py"), *labelled, env=log, folder=EXAMPLE)
        cluster.join("reviews", "reviews", (*UVICORN, "reviews:app", "--port", port), *options, folder=EXAMPLE)
        cluster.wait_for("stars", "ratings", "reviews")
        yield cluster, f"http://{HOST}:{port}"
    finally:
        cluster.stop()


@pytest.fixture
def example(running: tuple[Cluster, str]) -> tuple[Cluster, str]:
    """The example without any policy."""
    running[0].reset()
    return running


def spans(cluster: Cluster, trace: str) -> list[dict[str, Any]]:
    file = Path(cluster.env["SPANS"])
    lines = (json.loads(line) for line in file.read_text().splitlines()) if file.exists() else ()
    return [span for span in lines if span["trace"] == trace]


def test_http_grpc_http_is_one_trace(example: tuple[Cluster, str]) -> None:
    """A request over HTTP, the call it causes over gRPC and the request that causes over HTTP hang together in one trace."""
    cluster, site = example
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = httpx.get(f"{site}/reviews/0", headers={"traceparent": f"00-{trace}-{caller}-01"}, timeout=20).json()
    assert answer == {"id": 0, "reviews": {"Reviewer1": 5, "Reviewer2": 4}}

    def servers() -> set[str]:
        return {span["service"] for span in spans(cluster, trace) if span["kind"] == "SERVER"}

    eventually(lambda: servers() == {"reviews", "ratings", "stars"}, "three server spans")
    by_id = {span["span"]: span for span in spans(cluster, trace)}
    # Recent FastAPI adds spans of its own, of kind INTERNAL; they hang below ours.
    ours = [span for span in by_id.values() if span["parent"] in by_id and span["kind"] != "INTERNAL"]
    chain = {(span["service"], span["kind"], by_id[span["parent"]]["service"]) for span in ours}
    assert chain == {
        ("reviews", "CLIENT", "reviews"),
        ("ratings", "SERVER", "reviews"),
        ("ratings", "CLIENT", "ratings"),
        ("stars", "SERVER", "ratings"),
    }
    (called,) = [span for span in by_id.values() if (span["service"], span["kind"]) == ("reviews", "CLIENT")]
    assert called["name"] == "bookinfo.Ratings/Get"
    assert called["attributes"]["rpc.system"] == "grpc"


def test_strict_mutual_tls(example: tuple[Cluster, str]) -> None:
    """The port takes plain text until STRICT says otherwise; the mesh's own calls go on over mutual TLS."""
    cluster, site = example
    assert outsider(cluster) == "OK"
    cluster.apply_text(STRICT)
    eventually(lambda: outsider(cluster) == "UNAVAILABLE", "plain text is refused")
    assert httpx.get(f"{site}/reviews/0", timeout=20).json()["reviews"]["Reviewer1"] == 5


def outsider(cluster: Cluster) -> str:
    """What somebody outside the mesh gets of ratings."""
    with grpc.insecure_channel(f"ipv4:{cluster.env['RATINGS_ADDRESS']}") as channel:
        error = channel.unary_unary("/bookinfo.Ratings/Get").future(b'{"product": 0}', timeout=10).exception()
        return "OK" if error is None else str(error.code().name)


def test_fault_with_grpc_status(example: tuple[Cluster, str]) -> None:
    """An abort with grpcStatus on `/pkg.Service/Method` reaches the application as that status."""
    cluster, site = example
    cluster.apply_text(ABORT)
    answer = httpx.get(f"{site}/reviews/0", timeout=20).json()
    assert (answer["error"], answer["details"]) == ("RESOURCE_EXHAUSTED", "fault filter abort")


def test_one_deadline_over_both_protocols(example: tuple[Cluster, str]) -> None:
    """The gRPC deadline of reviews ends the HTTP request of ratings, which has five seconds of its own."""
    cluster, site = example
    cluster.apply_text(DELAYED_STARS)
    answer = httpx.get(f"{site}/reviews/0", headers={"x-envoy-expected-rq-timeout-ms": "1000"}, timeout=20)
    assert answer.elapsed.total_seconds() < 3
    assert answer.json()["error"] in ("DEADLINE_EXCEEDED", "UNAVAILABLE")


def test_ratings_is_registered_as_grpc(example: tuple[Cluster, str]) -> None:
    """The access log of the server says what was called, by whom and how it ended; the port is registered as gRPC."""
    cluster, site = example
    httpx.get(f"{site}/reviews/7", timeout=20)
    log = cluster.group.log("ratings")
    eventually(lambda: '"POST /bookinfo.Ratings/Get HTTP/2" 200' in log.read_text(), "a line of the access log")


@pytest.fixture(scope="module")
def echoes(running: tuple[Cluster, str]) -> Cluster:
    """An echo server for each API."""
    cluster, _ = running
    for api in ("sync", "aio"):
        command = (sys.executable, str(PROGRAMS / "grpcserver.py"), api, f"{HOST}:0", api)
        cluster.join(f"echo-{api}", f"echo-{api}", command, "--port", "9090")
    cluster.wait_for("echo-sync", "echo-aio")
    return cluster


@pytest.mark.parametrize("server", ["sync", "aio"])
@pytest.mark.parametrize("client", ["sync", "aio"])
def test_unmodified_programs(echoes: Cluster, client: str, server: str) -> None:
    """All four kinds of calls, health and reflection work between unmodified programs, over mutual TLS."""
    command = (sys.executable, str(PROGRAMS / "grpccall.py"), client, f"echo-{server}:9090")
    run = echoes.run_command("caller", command)
    result = subprocess.run(run, env=echoes.env, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert len(told["answers"]) == (8 if client == "sync" else 7)
    assert {answer["name"] for answer in told["answers"]} == {server}
    assert all("URI=spiffe://cluster.local/ns/default/sa/caller" in (answer["client"] or "") for answer in told["answers"])
    assert told["health"] == 1
    assert "grpc.health.v1.Health" in told["names"]


@pytest.mark.parametrize("api", ["sync", "aio"])
def test_outside_the_mesh(echoes: Cluster, api: str) -> None:
    """A target that is an address is left alone: plain text, and the server's PERMISSIVE port takes it."""
    rows = json.loads(echoes.cli("ps", "-o", "json").stdout)["items"]
    assert {"echo-sync", "echo-aio"} <= {row["name"] for row in rows}
    port = str(free_port())
    server = subprocess.Popen((sys.executable, str(PROGRAMS / "grpcserver.py"), api, f"{HOST}:{port}", "outside"))
    try:
        command = (sys.executable, str(PROGRAMS / "grpccall.py"), api, f"localhost:{port}")
        run = echoes.run_command("caller", command)
        result = subprocess.run(run, env=echoes.env, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert {answer["name"] for answer in json.loads(result.stdout)["answers"]} == {"outside"}
    finally:
        server.kill()
        server.wait()
