"""Istio's tasks about authorization and migration to mutual TLS, as far as they need no gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import HOST, Cluster, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
DENIED = "RBAC: access denied"


def policy(kind: str = "AuthorizationPolicy", name: str = "p", namespace: str = "foo", **spec: Any) -> str:
    """An object, as JSON."""
    metadata = {"name": name, "namespace": namespace, "annotations": spec.pop("annotations", {})}
    return json.dumps({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})


def strict(namespace: str) -> str:
    """mutual TLS only."""
    return policy("PeerAuthentication", "default", namespace, mtls={"mode": "STRICT"})


def to(**operation: list[str]) -> dict[str, Any]:
    """A rule about what is done."""
    return {"to": [{"operation": operation}]}


@dataclass(frozen=True)
class World:
    """httpbin in foo and bar, sleep in foo, and whoever is outside."""

    cluster: Cluster
    ports: dict[str, int]
    sleep: subprocess.Popen[str]

    def ask(self, method: str = "GET", path: str = "/get", to: str = "foo", **headers: str) -> int:
        """What sleep is answered; 0: nothing."""
        assert self.sleep.stdin is not None
        assert self.sleep.stdout is not None
        self.sleep.stdin.write(f"{method} http://httpbin.{to}:8000{path} {json.dumps(headers)}\n")
        self.sleep.stdin.flush()
        return int(self.sleep.stdout.readline())

    def outside(self, to: str = "foo", **headers: str) -> int:
        """What somebody without a certificate is answered; 0: nothing."""
        try:
            return httpx.get(f"http://{HOST}:{self.ports[to]}/get", headers=headers, trust_env=False).status_code
        except httpx.TransportError:
            return 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One mesh for all."""
    cluster = Cluster(tmp_path_factory.mktemp("authz"))
    ports = {name: free_port() for name in ("foo", "bar")}
    try:
        cluster.start_control_plane()
        for name, port in ports.items():
            command = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(port), "--log-level", "warning")
            options = ("--port", "8000", "--label", "app=httpbin")
            cluster.join(name, "httpbin", command, *options, namespace=name, folder=PROGRAMS)
        cluster.wait_until_listed("foo", "bar")
        command = cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "asker.py")), namespace="foo")
        with subprocess.Popen(command, env=cluster.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sleep:
            yield World(cluster, ports, sleep)
            sleep.kill()
    finally:
        cluster.stop()


@pytest.fixture
def world(running: World) -> World:
    """Without any policy."""
    running.cluster.reset()
    return running


def test_b18_migration_under_load(world: World) -> None:
    """PERMISSIVE, STRICT for foo, STRICT for all: members notice nothing, outsiders lose first foo, then all."""
    steady = (sys.executable, str(PROGRAMS / "steady.py"), "http://httpbin.foo:8000/x", "8")
    command = world.cluster.run_command("steady", steady, namespace="bar")
    with subprocess.Popen(command, env=world.cluster.env, stdout=subprocess.PIPE, text=True) as load:
        assert (world.outside("foo"), world.outside("bar")) == (200, 200)
        world.cluster.apply_text(strict("foo"))
        assert (world.outside("foo"), world.outside("bar")) == (0, 200)
        world.cluster.apply_text(strict("istio-system"))
        assert (world.outside("foo"), world.outside("bar")) == (0, 0)
        assert load.stdout is not None
        told = json.loads(load.stdout.read())
    assert told["failures"] == []
    assert told["requests"] > 100


def test_b24_explicit_deny(world: World) -> None:
    """GET is denied; then all but admin; then an ALLOW for /ip beside it, and the DENY comes first."""
    world.cluster.apply_text(policy(action="DENY", rules=[to(methods=["GET"])]))
    assert (world.ask("GET"), world.ask("POST")) == (403, 200)

    guests = {**to(methods=["GET"]), "when": [{"key": "request.headers[x-token]", "notValues": ["admin"]}]}
    world.cluster.apply_text(policy(action="DENY", rules=[guests]))
    assert (world.ask(**{"x-token": "admin"}), world.ask(**{"x-token": "guest"})) == (200, 403)

    world.cluster.apply_text(policy(name="allow", action="ALLOW", rules=[to(paths=["/ip"])]))
    assert world.ask(path="/ip", **{"x-token": "guest"}) == 403
    assert (world.ask(path="/ip", **{"x-token": "admin"}), world.ask(path="/get", **{"x-token": "admin"})) == (200, 403)


def test_b26_addresses(world: World) -> None:
    """ipBlocks is the connection's address whatever is forwarded, remoteIpBlocks the forwarded one."""
    near, far = ["127.0.0.0/8"], ["10.1.0.0/16"]
    world.cluster.apply_text(policy(action="DENY", rules=[{"from": [{"source": {"ipBlocks": near}}]}]))
    assert (world.outside(), world.outside(**{"x-forwarded-for": "10.1.2.3"})) == (403, 403)
    world.cluster.apply_text(policy(action="DENY", rules=[{"from": [{"source": {"remoteIpBlocks": far}}]}]))
    assert (world.outside(), world.outside(**{"x-forwarded-for": "10.1.2.3"})) == (200, 403)


def test_b28_dry_run_decides_nothing(world: World) -> None:
    """A DENY for everybody, on trial: every request is answered."""
    trial = {"istio.io/dry-run": "true"}
    world.cluster.apply_text(policy(action="DENY", rules=[to(paths=["/headers"])], annotations=trial))
    assert (world.ask(path="/headers"), world.ask(path="/get")) == (200, 200)
    world.cluster.apply_text(policy(action="DENY", rules=[to(paths=["/headers"])]))
    assert (world.ask(path="/headers"), world.ask(path="/get")) == (403, 200)


VIEWERS = {
    "details": "bookinfo-productpage",
    "reviews": "bookinfo-productpage",
    "ratings": "bookinfo-reviews",
}


def viewer(service: str) -> str:
    """GET for the one who needs it."""
    source = {"source": {"principals": [f"cluster.local/ns/default/sa/{VIEWERS[service]}"]}}
    rule = {"from": [source], **to(methods=["GET"])}
    return policy(name=f"{service}-viewer", namespace="default", selector={"matchLabels": {"app": service}}, rules=[rule])


def test_b21_bookinfo_opens_step_by_step(bookinfo: Cluster, site: str) -> None:
    """Nothing is allowed; then the page, and one after the other what it is made of."""
    bookinfo.apply_text(policy(name="allow-nothing", namespace="default"))
    refused = httpx.get(f"{site}/productpage", timeout=30)
    assert (refused.status_code, refused.text) == (403, DENIED)

    page = policy(
        name="page-viewer",
        namespace="default",
        selector={"matchLabels": {"app": "productpage"}},
        rules=[to(methods=["GET"])],
    )
    bookinfo.apply_text(page)
    texts = {
        "details": "Error fetching product details",
        "reviews": "Error fetching product reviews",
        "ratings": "Ratings service is currently unavailable",
    }
    page_now = httpx.get(f"{site}/productpage", timeout=30).text
    assert texts["details"] in page_now
    assert texts["reviews"] in page_now
    for service in VIEWERS:
        bookinfo.apply_text(viewer(service))
        assert texts[service] not in httpx.get(f"{site}/productpage", timeout=30).text
