"""AuthorizationPolicies at servers of grpcio's own (engine 2): none is rejected, and what it cannot check lets nobody in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from tests.support import policies
from tests.support.grpc_mesh import Caller, GrpcMesh, grpc_mesh

pytestmark = pytest.mark.timeout(240)

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
"""
SETTLED = 10.0  # seconds until a change must act; a reset closes the server's connections
PATH = "/test.Reviews/Say"
OK, DENIED = "OK", "PERMISSION_DENIED"


@dataclass(frozen=True)
class Native:
    """A server of engine 2, and a client."""

    mesh: GrpcMesh
    caller: Caller

    def apply(self, *specs: Any) -> None:
        """Nothing but these policies holds."""
        self.mesh.reset()
        texts = (json.dumps(policies.wrapped(spec, name=f"p{number}")) for number, spec in enumerate(specs))
        self.mesh.apply(STRICT + "\n---\n".join(texts))
        assert self.mesh.rejected() == []

    def becomes(self, code: str, **metadata: str) -> None:
        """A call ends so, once the newest configuration acts."""
        until = time.monotonic() + SETTLED
        while (found := self.caller.one(PATH, **metadata)["code"]) != code and time.monotonic() < until:
            time.sleep(0.1)
        assert found == code


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    with grpc_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.service("reviews-v1", "v1", engine="native")
        yield Native(mesh, mesh.caller("client", "native"))


def allow(*rules: Any) -> Any:
    return {"action": "ALLOW", "rules": list(rules)}


def deny(*rules: Any) -> Any:
    return {"action": "DENY", "rules": list(rules)}


def to(**operation: list[str]) -> Any:
    return {"to": [{"operation": operation}]}


def source(**fields: list[str]) -> Any:
    return {"from": [{"source": fields}]}


def when(key: str, *values: str, but: tuple[str, ...] = ()) -> Any:
    return {"when": [{"key": key, "values": list(values), "notValues": list(but)}]}


CLIENT = "cluster.local/ns/default/sa/client"
CHECKED = [
    ([], OK),
    ([{}], DENIED),
    ([allow({})], OK),
    ([allow({}), deny({})], DENIED),
    ([allow(source(principals=[CLIENT]))], OK),
    ([allow(source(principals=["cluster.local/ns/default/sa/other"]))], DENIED),
    ([deny(source(notPrincipals=[CLIENT]))], OK),
    ([deny(source(namespaces=["default"]))], DENIED),
    ([allow(source(serviceAccounts=["client"]))], OK),
    ([allow(to(paths=[PATH], methods=["POST"]))], OK),
    ([allow(to(paths=["/other*"]))], DENIED),
    ([allow(when("request.headers[X-A]", "b"))], OK),
    ([deny(when("request.headers[X-A]", "b*"))], DENIED),
    ([allow(source(ipBlocks=["127.0.0.0/8"]))], OK),
    ([{"action": "AUDIT", "rules": [{}]}], OK),
    ([{"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [to(paths=["/other"])]}], OK),
    ([{"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]}], DENIED),
]
# Istio's proxyless servers would let the caller in with each of these.
NOT_CHECKED = [
    [allow(to(paths=["/{*}/{*}"]))],
    [deny(to(paths=["/other/{*}"]))],
    [deny(when("connection.sni", "other"))],
    [deny(when("remote.ip", "10.0.0.0/8"))],
    [allow(when("request.auth.claims[a]", but=("b",)))],
    [deny(when("request.headers[x-bin]", "b"))],
    [deny(when("request.headers[grpc-timeout]", "b"))],
]


@pytest.mark.parametrize(("specs", "code"), CHECKED)
def test_policies_are_obeyed(native: Native, specs: list[Any], code: str) -> None:
    """Who may call, by what grpcio can see."""
    native.apply(*specs)
    native.becomes(code, x_a="b")


@pytest.mark.parametrize("specs", NOT_CHECKED)
def test_what_grpcio_cannot_check_lets_nobody_in(native: Native, specs: list[Any]) -> None:
    """And is accepted by it."""
    native.apply(*specs)
    native.becomes(DENIED)


def test_drawn_policies_are_not_rejected(native: Native) -> None:
    """A rejected listener would leave the former policies in force."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    chance = Random(seed)
    for _ in range(8):
        native.apply(*(policies.policy(chance, "p")["spec"] for _ in range(12)))
