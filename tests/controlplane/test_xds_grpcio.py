"""grpcio's own xDS client as a referee: `xds:///reviews:9080` is served from the same model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshlib_control.registry import Registry
from meshlib_control.xds.server import SERVER_OPTIONS, DiscoveryService
from tests.support.worlds import read, server

RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{headers: {end-user: {exact: faulty}}}]
    fault: {abort: {grpcStatus: ABORTED, percentage: {value: 100}}}
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: OTHERS}}]
"""

# A process of its own: grpcio reads its bootstrap once, and keeps threads until the process ends.
CLIENT = """
import sys, grpc
channel = grpc.insecure_channel("xds:///reviews:9080")
say = channel.unary_unary("/test.Reviews/Say")
for line in sys.stdin:
    user = line.strip()
    try:
        answer = say(b"", metadata=(("end-user", user),), timeout=10).decode()
    except grpc.RpcError as error:
        answer = f"{error.code().name} {error.details()}"
    print(answer, flush=True)
"""


class Caller:
    """Everybody is the same caller here: grpcio's bootstrap carries no bearer token."""

    spiffe_id = "spiffe://cluster.local/ns/default/sa/client"
    namespace = "default"
    service_account = "client"


async def anybody(_: Any) -> Caller:
    return Caller()


async def backend(version: str) -> tuple[Any, int]:
    """A gRPC server that answers with its version."""

    async def say(_: bytes, __: Any) -> bytes:
        return version.encode()

    grpc_server = grpc.aio.server()
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Reviews", handlers),))
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    return grpc_server, port


class Plane:
    def __init__(self) -> None:
        self.objects = read(RULES.replace("OTHERS", "v1"))
        self.registry = Registry()
        self.service = DiscoveryService(
            self.registry, lambda: self.registry.world(self.objects), anybody, lambda: 0.0, quiet=0.02
        )
        self.port = 0


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    plane = Plane()
    started = [await backend(version) for version in ("v1", "v2")]
    for number, (_, port) in enumerate(started, 1):
        # Of kind `grpc`: plain text unless STRICT, as these servers speak.
        plane.registry.connect(f"backend {number}", server(version=f"v{number}", port=port, kind="grpc"))
    xds = grpc.aio.server(options=SERVER_OPTIONS)
    xds.add_generic_rpc_handlers((plane.service.handler(),))
    plane.port = xds.add_insecure_port("127.0.0.1:0")
    await xds.start()
    plane.service.start()
    try:
        yield plane
    finally:
        plane.service.stop()
        for running in (xds, *(one for one, _ in started)):
            await running.stop(None)


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[asyncio.subprocess.Process]:
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{plane.port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "grpc~127.0.0.1~client-x.default~default.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def ask(process: asyncio.subprocess.Process, user: str) -> str:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{user}\n".encode())
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


async def test_grpcio_routes_by_our_resources_and_follows_a_change(plane: Plane, client: asyncio.subprocess.Process) -> None:
    """Headers, subsets, faults, and no NACK."""
    assert await ask(client, "somebody") == "v1"
    assert await ask(client, "jason") == "v2"
    assert (await ask(client, "faulty")).startswith("ABORTED")
    plane.objects = read(RULES.replace("OTHERS", "v2"))
    plane.service.changed()
    async with asyncio.timeout(10):
        while await ask(client, "somebody") != "v2":  # noqa: ASYNC110 - another process is watched
            await asyncio.sleep(0.05)
    (row,) = plane.service.status()
    assert row.node.kind == "grpc"
    assert [entry.error for entry in row.types] == [""] * 4
