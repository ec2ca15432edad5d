"""1,000 streams, 1,000 services, 10,000 endpoints: what one change costs a real control plane, and whom it reaches.

Every stream has a node of its own, serves ten services and calls three, and one more that all call. Half speak delta, half
state of the world. The streams live in this process, several on a connection (`--connections`): on a machine with two cores
that leaves one to the control plane, and 1,000 TLS connections would measure handshakes. CPU and memory are of the control
plane's process alone. `last ACK` is the time from the change's request to the moment the last stream has written its ACK;
the control plane's own 100 ms of debounce are in it.

Fails (exit code 1) if a change reaches somebody who does not need it, misses somebody who does, carries more than what
changed, or if memory grows while changes go on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import HOST, Cluster
from tests.support.streams import ENDPOINT, PORT, ROUTE, Crowd, Member, Stream

COMMON = "common"
ACCOUNTS = 50
GROWTH = 0.05
"""Of resident memory over the minute of changes: more is a leak."""

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http: [{{timeout: {seconds}s, route: [{{destination: {{host: {service}}}}}]}}]
"""


@dataclass(frozen=True)
class Usage:
    """What a process used so far: seconds of all cores, and resident bytes."""

    cpu: float
    memory: int
    peak: int


def usage(pid: int) -> Usage:
    """Of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    size = {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), size["VmRSS"], size["VmHWM"])


@dataclass(frozen=True)
class Push:
    """One change: seconds to the last ACK, who got it, what went over the wire, what it cost."""

    seconds: float
    reached: int
    sent: int
    cpu: float
    mistakes: tuple[str, ...]


class Scale:
    """The whole scene: a control plane with streams, and one more stream, the changer, that serves a bit of everything."""

    def __init__(self, cluster: Cluster, streams: int, services: int) -> None:
        self.cluster = cluster
        self.pid = cluster.group.pids()["controlplane"]
        self.services = [f"svc-{number}" for number in range(services)]
        self.changing = [COMMON, *self.services[:: max(1, services // 60)]]
        self.count = streams
        self.crowd: Crowd
        self.changer: Stream
        self._ports = dict.fromkeys(self.changing, 20_000)

    def usage(self) -> Usage:
        """Of the control plane."""
        return usage(self.pid)

    async def start(self, connections: int) -> float:
        """Opens all streams at once; seconds until every one holds all that it wants."""
        root = (self.cluster.data / "root-cert.pem").read_bytes()
        tokens = await self._tokens()
        self.crowd = Crowd(f"{HOST}:{self.cluster.xds_port}", root, tokens, connections)
        began = time.perf_counter()
        self.changer = self.crowd.open(self._changer(), [COMMON], delta=True)
        for number in range(self.count):
            self.crowd.open(self._member(number, self._served(number)), self._called(number), delta=number % 2 == 0)
        crowd = self.crowd.streams
        assert await self.crowd.until(lambda: all(stream.complete for stream in crowd), 120), "not all were answered"
        taken = time.perf_counter() - began
        await self.crowd.quiet(1.0)
        return taken

    def _served(self, number: int) -> tuple[tuple[str, int], ...]:
        return tuple((self.services[(number * 10 + each) % len(self.services)], 10_000 + each) for each in range(10))

    def _called(self, number: int) -> list[str]:
        return [COMMON, *(self.services[(number * 7 + each * 331) % len(self.services)] for each in range(3))]

    def _member(self, number: int, serves: tuple[tuple[str, int], ...]) -> Member:
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        labels = {"app": f"app-{number}", "version": f"v{number % 3}"}
        return Member(f"node-{number}", address, f"account-{number % ACCOUNTS}", serves, labels)

    async def _tokens(self) -> dict[str, str]:
        admin = (self.cluster.data / "admin.token").read_text().strip()
        base = f"http://{HOST}:{self.cluster.api_port}"
        async with httpx.AsyncClient(base_url=base, headers={"authorization": f"Bearer {admin}"}, trust_env=False) as api:
            accounts = [f"account-{number}" for number in range(ACCOUNTS)]
            answers = [await api.post("/v1/tokens", json={"serviceAccount": account}) for account in accounts]
        return {account: answer.json()["token"] for account, answer in zip(accounts, answers, strict=True)}

    def _changer(self) -> Member:
        return self._member(self.count, tuple(self._ports.items()))

    async def endpoint(self, service: str) -> Push:
        """One endpoint of a service changes: the changer serves it elsewhere."""

        async def move() -> None:
            self._ports[service] += 1
            await self.changer.announce(self._changer())

        return await self._push(move, service, ENDPOINT)

    async def routes(self, service: str, seconds: int) -> Push:
        """The VirtualService of a service changes."""
        admin = (self.cluster.data / "admin.token").read_text().strip()
        base = f"http://{HOST}:{self.cluster.api_port}"
        async with httpx.AsyncClient(base_url=base, headers={"authorization": f"Bearer {admin}"}, trust_env=False) as api:

            async def apply() -> None:
                text = ROUTES.format(service=service, seconds=seconds)
                (await api.post("/v1/apply", json={"documents": text})).raise_for_status()

            return await self._push(apply, service, ROUTE)

    async def _push(self, change: Callable[[], Any], service: str, kind: str) -> Push:
        needing = [stream for stream in self.crowd.streams if service in stream.services]
        self.crowd.forget()
        before, began = self.usage(), time.perf_counter()
        await change()
        in_time = await self.crowd.until(lambda: all(stream.received for stream in needing), 30)
        await self.crowd.quiet(0.3)
        after = self.usage()
        responses = [each for stream in self.crowd.streams for each in stream.received]
        return Push(
            seconds=max((each.at for each in responses), default=began) - began,
            reached=sum(bool(stream.received) for stream in self.crowd.streams),
            sent=sum(each.size for each in responses),
            cpu=after.cpu - before.cpu,
            mistakes=(*self._mistakes(service, kind), *(() if in_time else ("some were not reached within 30 s",))),
        )

    def _mistakes(self, service: str, kind: str) -> list[str]:
        name = f"outbound|{PORT}||{service}.default.svc.cluster.local"
        found = []
        for stream in self.crowd.streams:
            got = [(each.type_url, each.names, each.removed) for each in stream.received]
            wanted = [(kind, (name,), ())] if service in stream.services else []
            if got != wanted:
                found.append(f"{stream.member.name} ({'delta' if stream.delta else 'state of the world'}): {got}")
        return found


def row(what: str, pushes: Sequence[Push]) -> str:
    """One line of the table: medians."""
    seconds = [each.seconds for each in pushes]
    sent, cpu = (statistics.median(values) for values in zip(*((each.sent, each.cpu) for each in pushes), strict=True))
    return (
        f"{what:34} {pushes[0].reached:7,} {statistics.median(seconds) * 1e3:9,.0f} {max(seconds) * 1e3:9,.0f} "
        f"{sent:11,.0f} {cpu * 1e3:8,.0f}"
    )


async def steady(scene: Scale, seconds: int) -> list[Push]:
    """One change a second."""
    found = []
    for number in range(seconds):
        due = time.perf_counter() + 1.0
        found.append(await scene.endpoint(scene.changing[1 + number % (len(scene.changing) - 1)]))
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    return found


async def measure(scene: Scale, given: argparse.Namespace) -> bool:
    """Everything, printed as it comes; whether nothing was wrong."""
    empty = scene.usage()
    taken = await scene.start(given.connections)
    full = scene.usage()
    size = f"{given.streams:,} streams on {given.connections} connections, {given.services:,} services"
    print(f"{size}, {given.streams * 10:,} endpoints")
    print(
        f"all at once: answered in full after {taken:.2f} s, CPU {full.cpu - empty.cpu:.2f} s, "
        f"memory {empty.memory / 1e6:.0f} -> {full.memory / 1e6:.0f} MB (peak {full.peak / 1e6:.0f})"
    )
    print(f"{'change':34} {'streams':>7} {'last ACK':>9} {'worst':>9} {'bytes':>11} {'CPU ms':>8}")
    few = scene.changing[1]
    pushes = {
        "endpoint that few call": [await scene.endpoint(few) for _ in range(given.tries)],
        "endpoint that all call": [await scene.endpoint(COMMON) for _ in range(given.tries)],
        "route of a service that few call": [await scene.routes(few, 10 + number) for number in range(given.tries)],
        "route of the service that all call": [await scene.routes(COMMON, 10 + number) for number in range(given.tries)],
    }
    for what, found in pushes.items():
        print(row(what, found))
    before = scene.usage()
    pushes["one change a second"] = minute = await steady(scene, given.seconds)
    after = scene.usage()
    if minute:
        print(row(f"one change a second, {given.seconds} s", minute))
        print(f"memory {before.memory / 1e6:.1f} -> {after.memory / 1e6:.1f} MB, CPU {(after.cpu - before.cpu):.2f} s")
    await scene.crowd.close()
    mistakes = [text for found in pushes.values() for push in found for text in push.mistakes]
    if after.memory > before.memory * (1 + GROWTH):
        mistakes.append("memory grew")
    for text in mistakes[:10]:
        print(f"WRONG: {text}")
    print(f"{len(mistakes)} mistakes" if mistakes else "each change reached all that need it, only them, and only as delta")
    return not mistakes


def main() -> int:
    """Exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--tries", type=int, default=10, help="how often each change is made (default 10)")
    parser.add_argument("--seconds", type=int, default=60, help="of one change a second (default 60)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start_control_plane()
            good = asyncio.run(measure(Scale(cluster, given.streams, given.services), given))
        finally:
            cluster.stop()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
