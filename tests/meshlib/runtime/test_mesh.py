"""A process joins, asks, serves, loses the control plane and gets it back: over real gRPC and TLS."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.model import PeerMode
from meshlib.config.snapshot import ABSENT, Absent, Destination
from meshlib.config.subscription import Kind
from meshlib.errors import ControlPlaneError, CredentialError
from meshlib.facts import Peer, Request
from meshlib.inbound.visit import Denied, Visit
from meshlib.runtime import control
from meshlib.runtime.admission import admit_sync
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from tests.support.destinations import ports
from tests.support.ports import refusing_port
from tests.support.waiting import becomes

MakeMesh = Callable[..., Mesh]


def warnings_in(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in messages if words in text]


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nothing listens."""
    with refusing_port() as port:
        yield f"127.0.0.1:{port}"


def test_making_a_mesh_starts_nothing(settings: Settings) -> None:
    """No thread before the first use."""
    before = threading.active_count()
    mesh = Mesh(settings)
    assert threading.active_count() == before
    assert mesh.destination("reviews:9080") is None
    assert "not started" in repr(mesh)


def test_resolve_asks_and_waits(control_plane: Any, mesh: Mesh) -> None:
    """The first use subscribes; from then on it is known without waiting."""
    control_plane.put_destination("ratings:9080", 1)
    found = mesh.resolve("Ratings:9080")
    assert ports(found) == [1]
    assert mesh.destination("ratings:9080") is found
    assert mesh.snapshot.destination("ratings:9080") is found


def test_what_is_not_in_the_mesh_is_absent(mesh: Mesh) -> None:
    """Unknown hosts are asked for once, addresses never."""
    assert mesh.resolve("example.com") is ABSENT
    assert mesh.destination("example.com") is ABSENT
    assert mesh.resolve("127.0.0.1:1") is ABSENT


def test_many_waiters_one_question(control_plane: Any, mesh: Mesh) -> None:
    """Threads and event loops that ask at once share a subscription."""
    control_plane.put_destination("ratings:9080", 1)

    async def both() -> list[Destination | Absent]:
        return await asyncio.gather(*(mesh.resolve_async("ratings:9080") for _ in range(5)))

    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(mesh.resolve, "ratings:9080") for _ in range(5)]
        loops = [pool.submit(asyncio.run, both()) for _ in range(2)]
        found = [one.result() for one in waiting] + [one for loop in loops for one in loop.result()]
    assert {id(one) for one in found} == {id(mesh.destination("ratings:9080"))}
    asked = [name for request in control_plane.requests for name in request.resource_names_subscribe]
    assert asked.count("ratings:9080") == 1


async def test_a_cancelled_waiter_leaves_the_others_alone(control_plane: Any, mesh: Mesh) -> None:
    """Cancelling one task takes nothing from another."""
    control_plane.silent = True
    first = asyncio.create_task(mesh.resolve_async("ratings:9080"))
    second = asyncio.create_task(mesh.resolve_async("ratings:9080"))
    await asyncio.sleep(0.1)
    first.cancel()
    control_plane.silent = False
    control_plane.put_destination("ratings:9080", 1)
    assert ports(await second) == [1]
    with pytest.raises(asyncio.CancelledError):
        await first


def test_changes_arrive(control_plane: Any, mesh: Mesh) -> None:
    """New endpoints are visible without asking again; a removed host becomes absent."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.resolve("ratings:9080")
    control_plane.put_destination("ratings:9080", 2)
    assert becomes(lambda: ports(mesh.destination("ratings:9080")) == [2])
    control_plane.drop(Kind.LISTENER, "ratings:9080")
    assert becomes(lambda: mesh.destination("ratings:9080") is ABSENT)


def test_an_invalid_resource_is_refused_with_its_reason(
    control_plane: Any, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """The control plane hears why, the log says it, the old one stays."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.resolve("ratings:9080")
    control_plane.put_destination("ratings:9080", 0)
    assert control_plane.wait_for(lambda: bool(control_plane.nacks))
    assert "c: endpoints[0].lb_endpoints[0].endpoint.address" in control_plane.nacks[0]
    assert ports(mesh.destination("ratings:9080")) == [1]
    assert warnings_in(caplog, "refused EDS")


def test_serving_announces_who_we_are(control_plane: Any, mesh: Mesh) -> None:
    """Istio's node id, our labels, the port that really listens; ready once the control plane knows."""
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    node = control_plane.nodes[-1]
    assert node.id == "library~127.0.0.1~reviews-v1-0.default~default.svc.cluster.local"
    assert node.cluster == "reviews.default"
    assert node.user_agent_name == "meshlib"
    assert node.metadata["WORKLOAD_NAME"] == "reviews-v1"
    assert dict(node.metadata["LABELS"]) == {"app": "reviews", "version": "v1"}
    [registration] = node.metadata["MESHLIB_SERVICES"]
    assert dict(registration) == {"service": "reviews", "port": 9080, "target_port": 43210, "protocol": "http"}
    assert mesh.certificates.spiffe_id == "spiffe://cluster.local/ns/default/sa/reviews"


def test_another_port_is_announced_anew(control_plane: Any, mesh: Mesh) -> None:
    """The stream is reopened with the new node; what is known stays known; the same port again changes nothing."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.serve(43210, "127.0.0.1")
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    found = mesh.resolve("ratings:9080")
    before = len(control_plane.nodes)
    mesh.serve(43210, "127.0.0.1")
    mesh.serve(43211, "0.0.0.0")
    assert mesh.ready(10)
    assert mesh.destination("ratings:9080") is found
    assert control_plane.listed()[before - 1 :] == [[43210], [43211]]


def test_only_the_configured_port_is_announced(control_plane: Any, make_mesh: MakeMesh) -> None:
    """MESHLIB_TARGET_PORT: a second server of the same process is not the service."""
    mesh = make_mesh(target_port=43210)
    mesh.serve(5555)
    mesh.serve(43210)
    assert mesh.ready(10)
    assert control_plane.listed()[-1] == [43210]
    assert all(ports in ([], [43210]) for ports in control_plane.listed())


def test_the_policy_of_our_port_arrives(control_plane: Any, mesh: Mesh) -> None:
    """What the control plane says, also later; a listener that is taken away leaves a closed port."""
    control_plane.put_strict("xds.istio.io/grpc/lds/inbound/127.0.0.1:43210")
    mesh.serve(43210, "127.0.0.1")
    assert becomes(lambda: mesh.inbound.mode is PeerMode.STRICT)
    control_plane.drop(Kind.LISTENER, "xds.istio.io/grpc/lds/inbound/127.0.0.1:43210")
    assert becomes(lambda: mesh.inbound.mode is PeerMode.PERMISSIVE)
    assert isinstance(admit_sync(mesh.inbound, Visit(Request("GET", "http", "reviews", "/", ()), Peer())), Denied)


def test_prefetch(control_plane: Any, make_mesh: MakeMesh) -> None:
    """Named hosts are known before the first request."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = make_mesh(prefetch=("ratings:9080", "127.0.0.1:1"))
    mesh.start()
    assert becomes(lambda: isinstance(mesh.destination("ratings:9080"), Destination))


def test_the_control_plane_dying_changes_nothing(control_plane: Any, mesh: Mesh) -> None:
    """What is known is used on; after its return changes arrive again."""
    control_plane.put_destination("ratings:9080", 1)
    found = mesh.resolve("ratings:9080")
    control_plane.stop()
    assert becomes(lambda: mesh.problem is not None)
    assert mesh.destination("ratings:9080") is found
    control_plane.start()
    assert becomes(lambda: mesh.problem is None)
    control_plane.put_destination("ratings:9080", 2)
    assert becomes(lambda: ports(mesh.destination("ratings:9080")) == [2])


def test_a_control_plane_that_forgot_takes_nothing_away_at_once(control_plane: Any, mesh: Mesh) -> None:
    """After its restart services announce themselves one by one; a host is not absent because its stream comes later."""
    control_plane.put_destination("ratings:9080", 1)
    found = mesh.resolve("ratings:9080")
    control_plane.stop()
    control_plane.drop(Kind.LISTENER, "ratings:9080")
    heard = len(control_plane.requests)
    control_plane.start()
    assert control_plane.wait_for(lambda: any(request.response_nonce for request in control_plane.requests[heard:]))
    assert mesh.destination("ratings:9080") is found
    control_plane.put_destination("ratings:9080", 2)
    assert becomes(lambda: ports(mesh.destination("ratings:9080")) == [2])


def test_losses_count_after_the_grace(control_plane: Any, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody announced again by then is gone."""
    monkeypatch.setattr(control, "GRACE", 0.2)
    control_plane.put_destination("ratings:9080", 1)
    mesh.resolve("ratings:9080")
    control_plane.stop()
    control_plane.drop(Kind.LISTENER, "ratings:9080")
    control_plane.start()
    assert becomes(lambda: mesh.destination("ratings:9080") is ABSENT)


def test_a_stream_that_we_reopen_needs_no_grace(control_plane: Any, mesh: Mesh) -> None:
    """A new port is no new control plane: losses count at once."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.serve(43210, "127.0.0.1")
    mesh.resolve("ratings:9080")
    mesh.serve(43211, "127.0.0.1")
    assert mesh.ready(10)
    control_plane.drop(Kind.LISTENER, "ratings:9080")
    assert becomes(lambda: mesh.destination("ratings:9080") is ABSENT, 3.0)


def test_certificates_are_renewed(mesh: Mesh, make_mesh: MakeMesh) -> None:
    """At half of their life, without a word from anybody; telemetry learns who we are."""
    renewing = make_mesh(certificate_lifetime=2)
    renewing.start()
    assert becomes(lambda: renewing.certificates.generation >= 2)
    assert renewing.telemetry.local.principal == "spiffe://cluster.local/ns/default/sa/reviews"


def test_clients_are_made_once(mesh: Mesh) -> None:
    """One for all threads, one for each event loop."""

    async def twice() -> tuple[object, object]:
        return mesh.async_client(), mesh.async_client()

    assert mesh.client() is mesh.client()
    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert other is not first


def test_the_process_wide_mesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`meshlib.default()` reads the environment once."""
    import meshlib

    monkeypatch.setattr("meshlib.runtime.mesh._default", None)
    monkeypatch.setenv("MESHLIB_SERVICE", "ratings")
    monkeypatch.setenv("MESHLIB_HOME", str(tmp_path))
    assert meshlib.default() is meshlib.default()
    assert meshlib.default().settings.service == "ratings"


def test_without_a_control_plane_hosts_are_absent_after_a_bounded_wait(
    make_mesh: MakeMesh, nobody: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wait, one warning, then at once."""
    monkeypatch.setattr(control, "PATIENCE", 0.3)
    mesh = make_mesh(control_plane=nobody)
    started = time.monotonic()
    assert mesh.resolve("ratings:9080") is ABSENT
    assert 0.25 < time.monotonic() - started < 2
    started = time.monotonic()
    assert mesh.resolve("ratings:9080") is ABSENT
    assert mesh.resolve("details:9080") is ABSENT
    assert time.monotonic() - started < 0.2
    assert len(warnings_in(caplog, "")) == 1
    assert warnings_in(caplog, "other hosts go outside the mesh")
    assert "cannot be reached" in str(mesh.problem)
    assert mesh.destination("ratings:9080") is None, "what was not answered is not known"


def test_a_control_plane_that_starts_later_is_found(
    control_plane: Any, make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its return is told once, and what was asked meanwhile becomes known."""
    caplog.set_level(logging.INFO, "meshlib")
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    control_plane.stop()
    mesh = make_mesh()
    assert mesh.resolve("ratings:9080") is ABSENT
    control_plane.put_destination("ratings:9080", 1)
    control_plane.start()
    assert becomes(lambda: isinstance(mesh.destination("ratings:9080"), Destination))
    assert sum("is back" in record.getMessage() for record in caplog.records) == 1


def test_a_silent_control_plane_costs_one_wait(
    control_plane: Any, make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection without an answer is an outage, too."""
    monkeypatch.setattr(control, "PATIENCE", 0.3)
    control_plane.silent = True
    mesh = make_mesh()
    assert mesh.resolve("ratings:9080") is ABSENT
    assert warnings_in(caplog, "does not answer")


def test_one_unanswered_name_does_not_slow_the_others(
    control_plane: Any, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that the control plane forgets to answer is waited for once."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.resolve("ratings:9080")
    control_plane.silent = True
    assert mesh.resolve("details:9080", timeout=0.1) is ABSENT
    started = time.monotonic()
    assert mesh.resolve("details:9080", timeout=5) is ABSENT
    assert time.monotonic() - started < 1
    assert len(warnings_in(caplog, "does not answer for details:9080")) == 1
    control_plane.silent = False
    control_plane.put_destination("details:9080", 2)
    assert becomes(lambda: isinstance(mesh.destination("details:9080"), Destination))


async def test_async_waiting_is_bounded(control_plane: Any, mesh: Mesh) -> None:
    """The event loop gets the same answer after the same wait."""
    control_plane.silent = True
    assert await mesh.resolve_async("details:9080", timeout=0.1) is ABSENT


def test_the_disk_answers_when_nobody_else_does(
    control_plane: Any, make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good configuration serves a new process while the control plane is down, without the bounded wait."""
    monkeypatch.setattr(control, "PATIENCE", 0.8)
    control_plane.put_destination("ratings:9080", 7)
    control_plane.put_strict("xds.istio.io/grpc/lds/inbound/127.0.0.1:43210")
    first = make_mesh()
    first.serve(43210, "127.0.0.1")
    assert first.ready(10)
    first.resolve("ratings:9080")
    first.close()
    control_plane.stop()
    second = make_mesh()
    second.serve(43210, "127.0.0.1")
    started = time.monotonic()
    assert ports(second.resolve("ratings:9080")) == [7]
    assert time.monotonic() - started < 0.7
    assert second.inbound.mode is PeerMode.STRICT
    assert second.resolve("unknown:9080") is ABSENT
    third = make_mesh()
    third.serve(43210, "127.0.0.1")
    assert becomes(lambda: "down" in repr(third))
    assert ports(third.resolve("ratings:9080")) == [7], "asked for after several tries to connect"
    control_plane.put_destination("ratings:9080", 8)
    control_plane.start()
    assert becomes(lambda: ports(second.destination("ratings:9080")) == [8])


def test_a_corrupt_cache_is_told_at_the_start(
    control_plane: Any, settings: Settings, make_mesh: MakeMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the next outage, when it is needed; and nothing fails."""
    folder = Path(settings.cache_dir) / "default.reviews-v1"
    folder.mkdir(parents=True)
    (folder / "ratings%3A9080.cache").write_bytes(b"garbage")
    control_plane.put_destination("ratings:9080", 1)
    assert ports(make_mesh().resolve("ratings:9080")) == [1]
    assert len(warnings_in(caplog, "is corrupt")) == 1


def test_a_full_disk_fails_nothing(
    control_plane: Any, make_mesh: MakeMesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """/dev/full is always full: requests go on, one warning."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = make_mesh(cache_dir="/dev/full")
    assert ports(mesh.resolve("ratings:9080")) == [1]
    control_plane.put_destination("details:9080", 2, cluster="d")
    assert ports(mesh.resolve("details:9080")) == [2]
    assert len(warnings_in(caplog, "cannot be cached")) == 1


def test_a_killed_process_leaves_what_it_learned(control_plane: Any, settings: Settings) -> None:
    """The disk has a new destination as soon as it is used, and later its changes."""
    control_plane.put_destination("ratings:9080", 7)
    mesh = Mesh(settings)
    folder = Path(settings.cache_dir) / "default.reviews-v1"
    mesh.resolve("ratings:9080")
    assert becomes(lambda: (folder / "ratings%3A9080.cache").exists(), 0.5)
    control_plane.put_destination("details:9080", 8, cluster="d")
    mesh.resolve("details:9080")
    assert becomes(lambda: (folder / "details%3A9080.cache").exists(), 0.5)
    before = (folder / "ratings%3A9080.cache").read_bytes()
    control_plane.put_destination("ratings:9080", 9)
    assert becomes(lambda: (folder / "ratings%3A9080.cache").read_bytes() != before)
    mesh.close()


def test_a_wrong_token_is_told_at_once(make_mesh: MakeMesh, caplog: pytest.LogCaptureFixture) -> None:
    """Waiting would not help: the reason and what to do are in the log, requests go on outside."""
    mesh = make_mesh(token="stale")
    started = time.monotonic()
    assert mesh.resolve("ratings:9080") is ABSENT
    assert time.monotonic() - started < 1.5
    assert isinstance(mesh.problem, CredentialError)
    [told] = warnings_in(caplog, "outside the mesh")
    assert "refused the token" in told
    assert "the token has expired" in told
    assert "meshlib token create" in told


def test_a_renewed_token_file_is_read_again(control_plane: Any, make_mesh: MakeMesh, tmp_path: Path) -> None:
    """The operator replaces the file; no restart is needed."""
    control_plane.put_destination("ratings:9080", 1)
    file = tmp_path / "token"
    file.write_text("stale\n")
    mesh = make_mesh(token="", token_file=str(file))
    assert mesh.resolve("ratings:9080") is ABSENT
    file.write_text("good-token\n")
    assert becomes(lambda: isinstance(mesh.destination("ratings:9080"), Destination))


def test_a_token_file_that_is_missing(make_mesh: MakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nothing fails."""
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    mesh = make_mesh(token="", token_file=str(tmp_path / "nothing"))
    assert mesh.resolve("ratings:9080") is ABSENT
    assert "MESHLIB_TOKEN_FILE" in str(mesh.problem)


def test_a_control_plane_that_does_not_prove_itself(
    make_mesh: MakeMesh, authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another root certificate: nothing it says is believed."""
    from datetime import UTC, datetime

    from meshlib_control.ca import open_authority

    monkeypatch.setattr(control, "PATIENCE", 0.5)
    other = tmp_path / "other.pem"
    other.write_bytes(open_authority(tmp_path / "other-ca", datetime.now(UTC)).roots_pem)
    mesh = make_mesh(root_cert=str(other))
    assert mesh.resolve("ratings:9080") is ABSENT
    assert isinstance(mesh.problem, ControlPlaneError)
    assert "MESHLIB_ROOT_CERT" in str(mesh.problem)


def test_closing_ends_threads_and_registration(control_plane: Any, mesh: Mesh) -> None:
    """The stream is the lease. Closing twice is closing once, and the next use starts anew."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.resolve("ratings:9080")
    mesh.close()
    mesh.close()
    assert becomes(lambda: not [one for one in threading.enumerate() if one.name in ("meshlib-control", "meshlib-xds")])
    assert mesh.destination("ratings:9080") is None
    assert ports(mesh.resolve("ratings:9080")) == [1]


def test_a_forgotten_mesh_is_collected(control_plane: Any, settings: Settings) -> None:
    """No thread holds the mesh; its threads end with it."""
    mesh = Mesh(settings)
    mesh.resolve("ratings:9080")
    seen = weakref.ref(mesh)
    del mesh
    gc.collect()
    assert seen() is None
    assert becomes(lambda: not [one for one in threading.enumerate() if one.name == "meshlib-control"])


def test_switched_off(make_mesh: MakeMesh) -> None:
    """MESHLIB_ENABLED=0: no thread, every host outside the mesh."""
    before = threading.active_count()
    mesh = make_mesh(enabled=False)
    mesh.start()
    mesh.serve(43210)
    assert mesh.resolve("ratings:9080") is ABSENT
    assert mesh.ready(0)
    assert threading.active_count() == before


def test_a_crawler_does_not_pile_up_names(control_plane: Any, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts outside the mesh are forgotten when they are many; those inside stay."""
    monkeypatch.setattr(control, "MOST_ABSENT", 10)
    control_plane.put_destination("ratings:9080", 1)
    found = mesh.resolve("ratings:9080")
    for number in range(25):
        assert mesh.resolve(f"host-{number}.example.com") is ABSENT
    assert len(mesh.snapshot.absent) <= 10
    assert mesh.destination("ratings:9080") is found


def test_strict_refuses_to_start(make_mesh: MakeMesh, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a certificate the start fails with the reason, and nothing is left running."""
    monkeypatch.setattr("meshlib.runtime.mesh.STRICT_TIMEOUT", 0.5)
    mesh = make_mesh(strict=True, control_plane=nobody)
    with pytest.raises(ControlPlaneError, match=r"cannot be reached.*MESHLIB_STRICT"):
        mesh.start()
    assert "not started" in repr(mesh)
    with pytest.raises(CredentialError):
        make_mesh(strict=True, token="stale").start()


async def test_strict_sends_nothing_outside_for_want_of_an_answer(
    control_plane: Any, make_mesh: MakeMesh, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown host is an error while nobody answers, and outside the mesh once somebody says so."""
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    lost = make_mesh(strict=True, control_plane=nobody)
    with pytest.raises(ControlPlaneError):
        lost.resolve("ratings:9080")
    with pytest.raises(ControlPlaneError):
        await lost.resolve_async("ratings:9080")
    assert lost.resolve("127.0.0.1:1") is ABSENT
    joined = make_mesh(strict=True)
    joined.start()
    assert joined.resolve("ratings:9080") is ABSENT
