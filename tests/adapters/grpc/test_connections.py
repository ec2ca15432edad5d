"""Connections of both APIs: who is on the other side, rotation, cancellation, ends that nobody wished for."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import Any

import grpc
import pytest

from meshlib.config.snapshot import Destination
from meshlib.errors import ConnectFailure
from tests.adapters.grpc.conftest import Scene
from tests.adapters.grpc.test_calls import refused
from tests.support.grpc_callers import SyncCaller
from tests.support.grpc_echo import Echo
from tests.support.mesh import LocalMesh, endpoint
from tests.support.pki import Authority, spiffe


async def until(fact: Any, limit: float = 5.0) -> None:
    """Wait for a fact."""
    for _ in range(int(limit / 0.02)):
        if fact():
            return
        await asyncio.sleep(0.02)
    pytest.fail("not in time")


def active(scene: Scene) -> int:
    """Calls that count as in flight."""
    known = scene.mesh.snapshot.destination("reviews:9080")
    assert isinstance(known, Destination)
    cluster = next(iter(known.clusters.values()))
    balancer = scene.mesh.balancers.of(cluster, known.assignments.get(cluster.assignment))
    return sum(len(host.active) for host in balancer.hosts)


async def test_somebody_else_answers(scene: Scene) -> None:
    """A server that proves another identity than the expected one gets no byte of the call."""
    scene.configure(sans=[spiffe("other")], retry=None)
    for call in (scene.caller.one(), scene.caller.many(), scene.caller.chat([b"a"])):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert f"is {spiffe('reviews')}, expected {spiffe('other')}" in error.details()
        assert isinstance(error.__cause__, ConnectFailure)
    assert not scene.echo.calls


async def test_one_of_several_identities(scene: Scene) -> None:
    """A service may have several service accounts; the one that answered is told."""
    scene.configure(sans=[spiffe("other"), spiffe("reviews")])
    assert (await scene.caller.one())["peer"] == spiffe("productpage")
    await scene.flags(1)
    assert scene.mesh.events[-1].destination.principal == spiffe("reviews")


async def test_foreign_authority(scene: Scene, authority: Authority) -> None:
    """A server with the right name from another authority gets no byte of the call."""
    with Echo("false", LocalMesh(Authority("another"), "reviews")) as other:
        scene.configure(endpoints={"v1": [endpoint(other.port, tls=True)]}, retry=None)
        error = await refused(scene.caller.one())
        assert "certificate verify failed" in error.details().lower()
        assert not other.calls


async def test_without_a_certificate(scene: Scene) -> None:
    """Mutual TLS is never downgraded: without a certificate the call fails and says why."""
    scene.mesh.certificates._client = None
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no certificate" in error.details()
    assert not scene.echo.calls


async def test_plain_text_server_where_tls_is_expected(scene: Scene) -> None:
    """A server that speaks no TLS is a failure to connect."""
    with Echo("plain") as other:
        scene.configure(endpoints={"v1": [endpoint(other.port, tls=True)]}, retry=None)
        error = await refused(scene.caller.one())
        assert isinstance(error.__cause__, ConnectFailure)
        assert not other.calls


async def test_client_rotation(scene: Scene) -> None:
    """After a new certificate new calls use a new connection; a call under way ends on the old one."""
    call = await scene.caller.begin("Many", b"endless")
    old = (await call.next())["address"]
    same = (await scene.caller.one())["address"]
    scene.mesh.certificates.rotate()
    new = (await scene.caller.one())["address"]
    assert old == same != new
    scene.echo.cancelled.set()
    assert (await call.next())["address"] == old
    await call.next()
    assert await call.code() is grpc.StatusCode.OK


async def test_cancelling_reaches_the_server(scene: Scene) -> None:
    """A call that its caller gives up ends on the server, too, frees its endpoint, and is told as DC."""
    for kind, request in (("One", b"slow seconds=20"), ("Many", b"endless")):
        scene.echo.entered.clear()
        scene.echo.cancelled.clear()
        call = await scene.caller.begin(kind, request)
        assert await asyncio.to_thread(scene.echo.entered.wait, 5)
        if kind == "Many":
            await call.next()
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await asyncio.to_thread(scene.echo.cancelled.wait, 5)
        await until(lambda: active(scene) == 0)
    assert await scene.flags(2) == ["DC", "DC"]
    assert scene.mesh.events[-1].status == 0


async def test_cancelling_while_waiting_for_the_next_try(scene: Scene) -> None:
    """No further try after the caller has given up."""
    scene.configure(endpoints={"v1": []})
    call = await scene.caller.begin("One", b"echo", wait_for_ready=True)
    await asyncio.sleep(0.15)
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    scene.configure()
    await asyncio.sleep(0.3)
    assert not scene.echo.calls


async def test_a_forgotten_stream_frees_its_endpoint(scene: Scene) -> None:
    """Who drops a stream without reading or cancelling it has given it up."""
    call = await scene.caller.begin("Many", b"endless")
    await call.next()
    assert active(scene) == 1
    del call
    gc.collect()
    await until(lambda: active(scene) == 0)
    assert await asyncio.to_thread(scene.echo.cancelled.wait, 5)


async def test_the_server_goes_away(scene: Scene) -> None:
    """A stream whose server dies ends with UNAVAILABLE or CANCELLED, and the endpoint is free again."""
    call = await scene.caller.begin("Many", b"endless")
    await call.next()
    await asyncio.to_thread(scene.echo.stop, None)
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
    await until(lambda: active(scene) == 0)


async def test_closing_the_channel_ends_its_calls(scene: Scene) -> None:
    """As with gRPC's own channels; nothing stays behind: no thread, no folder."""
    call = await scene.caller.begin("Many", b"endless")
    await call.next()
    folder = scene.caller.channel._folder  # type: ignore[attr-defined]
    assert os.stat(folder).st_mode & 0o777 == 0o700
    await scene.caller.close()
    assert await asyncio.to_thread(scene.echo.cancelled.wait, 5)
    await until(lambda: not os.path.exists(folder))
    await until(lambda: "meshlib-grpc" not in {thread.name for thread in threading.enumerate()})


async def test_nothing_happens_before_the_first_call(authority: Authority) -> None:
    """Making a channel and a callable opens nothing, so that a process may still fork."""
    mesh = LocalMesh(authority)
    before = threading.active_count()
    caller = SyncCaller()
    caller.open(mesh)
    caller.channel.unary_unary("/test.Echo/One")
    assert threading.active_count() == before
    assert mesh.asked == []
    await caller.close()


async def test_resolved_at_the_first_call(scene: Scene) -> None:
    """The control plane is asked for the target once, when the first call needs it."""
    known = scene.mesh.snapshot.destination("reviews:9080")
    assert isinstance(known, Destination)
    mesh = LocalMesh(scene.authority)
    mesh.unresolved["ratings:9080"] = Destination("ratings:9080", known.routes, known.clusters, known.assignments)
    caller = type(scene.caller)()
    caller.open(mesh, "dns:///ratings:9080")
    await caller.one()
    await caller.one()
    assert mesh.asked == ["ratings:9080"]
    await caller.close()


async def test_outside_the_mesh(scene: Scene) -> None:
    """A host that the mesh does not know gets gRPC's own channel, whose errors are its own; no event is told."""
    mesh = LocalMesh(scene.authority)
    caller = type(scene.caller)()
    caller.open(mesh, "nowhere.invalid:9080")
    error = await refused(caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "meshlib" not in error.details()
    assert (
        len(await asyncio.gather(refused(caller.many()), refused(caller.chat([b"a"])), refused(caller.collect([b"a"])))) == 3
    )
    assert mesh.events == []
    await caller.close()


@pytest.mark.parametrize(
    "target", ["127.0.0.1:{port}", "ipv4:127.0.0.1:{port}", "localhost:{port}", "dns:///localhost:{port}"]
)
async def test_targets_that_are_never_in_the_mesh(scene: Scene, target: str) -> None:
    """Addresses and localhost get an ordinary channel at once; the mesh is not asked."""
    with Echo("plain") as plain:
        caller = type(scene.caller)()
        caller.open(scene.mesh, target.format(port=plain.port))
        assert (await caller.one())["name"] == "plain"
        await caller.close()
    assert scene.mesh.asked == []
    assert "Mesh" not in type(caller.channel).__name__  # type: ignore[attr-defined]
