"""Istio's tasks about authorization and migration to mutual TLS, as far as they need no gateway."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import authorizer
from tests.support.cluster import HOST, Cluster, eventually, free_port

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


def answer(
    asker: subprocess.Popen[str], method: str = "GET", path: str = "/get", to: str = "foo", **headers: str
) -> tuple[int, str]:
    """Status and text of what httpbin answers to an asker."""
    assert asker.stdin is not None
    assert asker.stdout is not None
    asker.stdin.write(f"{method} http://httpbin.{to}:8000{path} {json.dumps(headers)}\n")
    asker.stdin.flush()
    status, text = json.loads(asker.stdout.readline())
    return status, text


@contextlib.contextmanager
def asking(cluster: Cluster, namespace: str) -> Iterator[subprocess.Popen[str]]:
    """sleep, which asks httpbin when it is told to."""
    command = cluster.run_command("sleep", (sys.executable, str(PROGRAMS / "asker.py")), namespace=namespace)
    with subprocess.Popen(command, env=cluster.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asker:
        yield asker
        asker.kill()


def start_httpbin(cluster: Cluster, name: str, port: int, **env: str) -> None:
    """httpbin in the namespace of that name."""
    command = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(port), "--log-level", "warning")
    cluster.join(
        name, "httpbin", command, "--port", "8000", "--label", "app=httpbin", namespace=name, env=env, folder=PROGRAMS
    )


@dataclass(frozen=True)
class World:
    """httpbin in foo (ASGI) and bar (WSGI), sleep in foo, and whoever is outside."""

    cluster: Cluster
    ports: dict[str, int]
    sleep: subprocess.Popen[str]
    stats: int

    def ask(self, method: str = "GET", path: str = "/get", to: str = "foo", **headers: str) -> int:
        """What sleep is answered; 0: nothing."""
        return answer(self.sleep, method, path, to, **headers)[0]

    def counted_trials(self) -> set[str]:
        """Labels and numbers of foo's metric about dry runs."""
        page = httpx.get(f"http://{HOST}:{self.stats}/stats/prometheus", trust_env=False).text
        return {line.partition("{")[2] for line in page.splitlines() if "_rbac{" in line}

    def traced_trials(self) -> dict[str, tuple[str, str | None]]:
        """By path: what a DENY on trial would have done, and which."""
        tag = "istio.authorization.dry_run.deny_policy"
        lines = Path(self.cluster.env["SPANS"]).read_text().splitlines()
        spans = [json.loads(line)["attributes"] for line in lines]
        return {
            span["url.path"]: (span[f"{tag}.result"], span.get(f"{tag}.name")) for span in spans if f"{tag}.result" in span
        }

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
    cluster.env |= {
        "SPANS": str(cluster.home / "spans"),
        "PYTHONPATH": str(PROGRAMS / "otel"),
        "MESHLIB_TRACE_SAMPLING": "100",
    }
    ports = {name: free_port() for name in ("foo", "bar")}
    stats = free_port()
    try:
        cluster.start_control_plane()
        start_httpbin(
            cluster,
            "foo",
            ports["foo"],
            MESHLIB_STATS_ADDRESS=f"{HOST}:{stats}",
            LOG_LEVEL="INFO",
        )
        start_httpbin(cluster, "bar", ports["bar"])
        cluster.wait_until_listed("foo", "bar")
        with asking(cluster, "foo") as sleep:
            yield World(cluster, ports, sleep, stats)
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


PROVIDERS = """
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |-
    extensionProviders:
    - name: sample-ext-authz-grpc
      envoyExtAuthzGrpc: {{service: external-authz-grpc.local, port: "{0.grpc_port}"}}
    - name: sample-ext-authz-http
      envoyExtAuthzHttp:
        service: external-authz-http.local
        port: "{0.http_port}"
        includeRequestHeadersInCheck: [x-ext-authz]
        headersToUpstreamOnAllow: [x-ext-authz-check-result]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: external-authz-grpc-local, namespace: foo}}
spec:
  hosts: [external-authz-grpc.local]
  endpoints: [{{address: 127.0.0.1}}]
  ports: [{{name: grpc, number: {0.grpc_port}, protocol: GRPC}}]
  resolution: STATIC
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: external-authz-http-local, namespace: foo}}
spec:
  hosts: [external-authz-http.local]
  endpoints: [{{address: 127.0.0.1}}]
  ports: [{{name: http, number: {0.http_port}, protocol: HTTP}}]
  resolution: STATIC
"""


@pytest.mark.parametrize("namespace", ["foo", "bar"])
@pytest.mark.parametrize("provider", ["sample-ext-authz-grpc", "sample-ext-authz-http"])
def test_b25_an_authorizer_decides(world: World, provider: str, namespace: str) -> None:
    """It is asked about `/headers` alone; what it adds reaches httpbin. Without it nobody enters there."""
    with authorizer.running(authorizer.Authorizer()) as asked:
        world.cluster.apply_text(PROVIDERS.format(asked))
        rules = [to(paths=["/headers"])]
        world.cluster.apply_text(policy(action="CUSTOM", namespace=namespace, provider={"name": provider}, rules=rules))

        def headers(wish: str) -> tuple[int, str]:
            return answer(world.sleep, "GET", "/headers", namespace, **{"x-ext-authz": wish})

        assert headers("deny") == (403, authorizer.DENIED)
        status, text = headers("allow")
        assert status == 200
        assert json.loads(text)["headers"][authorizer.RESULT] == "allowed"
        assert world.ask(path="/ip", to=namespace) == 200
        assert len(asked.checks or asked.requests) == 2
    assert headers("allow")[0] == 403


@pytest.mark.parametrize("api", ["sync", "aio"])
def test_an_authorizer_decides_about_calls(world: World, api: str) -> None:
    """gRPC servers ask it, too; who is refused is told its words."""
    name = f"echo-{api}"
    server = (sys.executable, str(PROGRAMS / "grpcserver.py"), api, f"{HOST}:0", name)
    world.cluster.join(name, name, server, "--port", "7001", namespace="foo")
    world.cluster.wait_until_listed(name)

    def asked(wish: str) -> Any:
        client = (sys.executable, str(PROGRAMS / "grpcask.py"), f"{name}.foo:7001", f"x-ext-authz={wish}")
        command = world.cluster.run_command("sleep", client, namespace="foo")
        return json.loads(
            subprocess.run(command, env=world.cluster.env, stdout=subprocess.PIPE, timeout=60, check=True).stdout
        )

    with authorizer.running(authorizer.Authorizer()) as running:
        world.cluster.apply_text(PROVIDERS.format(running))
        provider, rules = {"name": "sample-ext-authz-grpc"}, [to(paths=["/test.Echo/One"])]
        selector = {"matchLabels": {"app": name}}
        world.cluster.apply_text(policy(action="CUSTOM", selector=selector, provider=provider, rules=rules))
        assert asked("deny") == ["PERMISSION_DENIED", authorizer.DENIED]
        assert asked("allow") == ["OK", "hello"]
    world.cluster.end(name, signal.SIGTERM)


def test_b28_dry_run_decides_nothing(world: World) -> None:
    """A DENY for everybody, on trial: every request is answered; log, metric and trace say what would have been."""
    trial = {"istio.io/dry-run": "true"}
    rules = [to(paths=["/headers"])]
    world.cluster.apply_text(policy(action="DENY", rules=rules, annotations=trial))
    assert (world.ask(path="/headers"), world.ask(path="/get")) == (200, 200)

    name = "ns[foo]-policy[p]-rule[0]"
    log = world.cluster.group.log("foo")
    eventually(lambda: f"shadow denied, matched policy {name}" in log.read_text(), f"the line in {log}")
    begin = 'authz_dry_run_action="deny",authz_dry_run_result='
    counts = {f'{begin}"denied"}} 1', f'{begin}"allowed"}} 1'}
    eventually(lambda: world.counted_trials() == counts, "both requests counted")
    tags = {"/headers": ("denied", name), "/get": ("allowed", None)}
    eventually(lambda: world.traced_trials() == tags, "both requests traced")

    world.cluster.apply_text(policy(action="DENY", rules=rules))
    assert (world.ask(path="/headers"), world.ask(path="/get")) == (403, 200)


ALIASES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'trustDomainAliases: [old-td]'}
"""


def test_b27_the_trust_domain_gets_another_name(cluster: Cluster) -> None:
    """Policies that name the old one let nobody in, until it is an alias."""
    allowed, denied = "sleep-allow", "foo"
    everybody_but = {"from": [{"source": {"notPrincipals": [f"old-td/ns/{allowed}/sa/sleep"]}}], **to(methods=["GET"])}
    cluster.start_control_plane("--trust-domain", "old-td")
    cluster.apply_text(policy(action="DENY", rules=[everybody_but]))

    def statuses() -> dict[str, int]:
        found = {}
        for namespace in (allowed, denied):
            with asking(cluster, namespace) as sleep:
                found[namespace] = answer(sleep)[0]
        return found

    start_httpbin(cluster, "foo", free_port())
    cluster.wait_until_listed("foo")
    assert statuses() == {allowed: 200, denied: 403}

    for name in ("foo", "controlplane"):
        cluster.end(name, signal.SIGTERM)
    cluster.start_control_plane("--trust-domain", "new-td", name="renamed")
    start_httpbin(cluster, "foo", free_port())
    cluster.wait_until_listed("foo")
    assert statuses() == {allowed: 403, denied: 403}
    cluster.apply_text(ALIASES)
    assert statuses() == {allowed: 200, denied: 403}


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
