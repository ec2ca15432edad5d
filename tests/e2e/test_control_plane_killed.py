"""The control plane is killed while many streams and calls go on; what everybody sees of it, and of its return."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from meshlib_httpx import MeshTransport
from tests.e2e.test_resilience import ALL_TO_V2, PROGRAMS, uvicorn
from tests.support.cluster import HOST, Cluster, eventually
from tests.support.streams import ENDPOINT, Crowd, Member, endpoints

pytestmark = pytest.mark.e2e

STREAMS = 200
CALLERS = 25
ACCOUNT = "member"


def member(number: int) -> Member:
    """Serves one of 40 services, so that each has five endpoints."""
    return Member(f"node-{number}", f"10.0.0.{number % 250 + 1}", ACCOUNT, ((f"svc-{number % 40}", 10_000 + number),))


def called(number: int) -> list[str]:
    return [f"svc-{(number * 7 + each) % 40}" for each in range(3)]


def crowd(cluster: Cluster) -> Crowd:
    token = cluster.token(ACCOUNT).read_text().strip()
    root = (cluster.data / "root-cert.pem").read_bytes()
    return Crowd(f"{HOST}:{cluster.xds_port}", root, {ACCOUNT: token}, connections=20)


async def joined(cluster: Cluster, absent: frozenset[int] = frozenset(), within: float = 0.0) -> Crowd:
    """Streams of all members but some, opened in random order over some seconds, each holding all it wants."""
    dice = random.Random(3)
    found = crowd(cluster)
    numbers = [number for number in range(STREAMS) if number not in absent]
    dice.shuffle(numbers)
    for number in numbers:
        found.open(member(number), called(number), delta=number % 2 == 0)
        await asyncio.sleep(within / len(numbers))
    assert await found.until(lambda: all(stream.complete for stream in found.streams), 30)
    await found.quiet(0.5)
    return found


def known(found: Crowd) -> dict[str, set[tuple[str, int]]]:
    """The newest endpoints of each cluster, as all streams see them; they must agree."""
    newest: dict[str, set[tuple[str, int]]] = {}
    for stream in found.streams:
        seen: dict[str, set[tuple[str, int]]] = {}
        for each in stream.received:
            seen |= endpoints(each) if each.type_url == ENDPOINT else {}
        for name, addresses in seen.items():
            assert newest.setdefault(name, addresses) == addresses
    return newest


def losses(found: Crowd, before: dict[str, set[tuple[str, int]]]) -> list[str]:
    """Whatever a stream was told to be gone."""
    lost = []
    for stream in found.streams:
        for each in stream.received:
            lost += [f"{stream.member.name}: {name} removed" for name in each.removed]
            now = endpoints(each) if each.type_url == ENDPOINT else {}
            lost += [
                f"{stream.member.name}: {name} lost {before[name] - now[name]}" for name in now if before[name] - now[name]
            ]
    return lost


def test_a_restart_takes_nothing_from_anybody(cluster: Cluster) -> None:
    """Streams come back over three seconds, each sees all endpoints at once; who stays away is gone after the grace."""

    async def scenario() -> None:
        cluster.start_control_plane()
        first = await joined(cluster)
        before = known(first)
        assert {len(addresses) for addresses in before.values()} == {5}
        await asyncio.sleep(1.5)  # who is there is written to disk once a second
        cluster.kill("controlplane")
        await first.close()
        await asyncio.to_thread(cluster.start_control_plane, name="controlplane-again")
        second = await joined(cluster, absent=frozenset({7}), within=3.0)
        assert losses(second, before) == []
        gone = (member(7).address, 10_007)
        assert any(gone in addresses for addresses in known(second).values())
        await asyncio.sleep(10.0)
        await second.quiet(0.5)
        assert not any(gone in addresses for addresses in known(second).values())
        assert len(losses(second, before)) == sum("svc-7" in stream.services for stream in second.streams)
        await second.close()

    asyncio.run(scenario())


class Caller:
    """A client process in small: a mesh of its own that calls without a pause."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.names: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with httpx.Client(transport=MeshTransport(self.mesh), timeout=10) as client:
            while not self._stop.wait(0.02):
                try:
                    response = client.get("http://httpbin:8000/x")
                    self.names.append(response.json()["name"])
                except (httpx.HTTPError, ValueError) as error:
                    self.failures.append(repr(error))

    @contextmanager
    def calling(self) -> Iterator[Caller]:
        """Calls until left."""
        assert self.mesh.ready(20)
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()
            self.mesh.client().close()
            self.mesh.close()


def callers(cluster: Cluster, cache: Path) -> list[Caller]:
    token = cluster.token("caller")
    return [
        Caller(
            Mesh(
                Settings(
                    control_plane=f"{HOST}:{cluster.xds_port}",
                    token_file=str(token),
                    root_cert=str(cluster.data / "root-cert.pem"),
                    instance=f"caller-{number}",
                    cache_dir=str(cache / str(number)),
                )
            )
        )
        for number in range(CALLERS)
    ]


def test_many_clients_under_load_do_not_notice(cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No call of any client fails while the control plane is gone; all are back after it, and get the next change."""
    caplog.set_level(logging.CRITICAL, "meshlib")  # each tells of the outage
    cluster.start_control_plane()
    for version in ("v1", "v2"):
        options = ("--port", "8000", "--label", f"version={version}")
        cluster.join(f"httpbin-{version}", "httpbin", uvicorn("httpbin:app"), *options, env={"NAME": version}, folder=PROGRAMS)
    cluster.wait_for("httpbin-v1", "httpbin-v2")
    with ExitStack() as stack:
        all_of_them = [stack.enter_context(caller.calling()) for caller in callers(cluster, tmp_path)]
        eventually(lambda: all({"v1", "v2"} <= set(caller.names) for caller in all_of_them), "all call both")
        time.sleep(1.5)  # who is there is written to disk once a second
        cluster.kill("controlplane")
        counts = [len(caller.names) for caller in all_of_them]
        eventually(
            lambda: all(len(caller.names) > count + 30 for caller, count in zip(all_of_them, counts, strict=True)),
            "all go on without it",
        )
        cluster.start_control_plane(name="controlplane-again")
        eventually(lambda: all(caller.mesh.problem is None for caller in all_of_them), "all are back", 30)
        cluster.apply_text(ALL_TO_V2)
        eventually(lambda: all(set(caller.names[-5:]) == {"v2"} for caller in all_of_them), "the change reaches all", 30)
    assert [caller.failures for caller in all_of_them if caller.failures] == []
