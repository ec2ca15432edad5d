"""Circuit breakers over real connections: who waits, who fails at once, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from meshlib.config.model import Cluster
from meshlib.config.protection import CircuitBreakers, ConnectionPolicy, OutlierDetection, RetryBudget
from meshlib.config.snapshot import Destination
from meshlib.errors import UpstreamError, UpstreamOverflow, UpstreamTimeout
from meshlib.facts import Request
from meshlib.outbound.balance import Protection
from meshlib.runtime.timing import Timeout
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.upstream import Upstream

HOST = "reviews:9080"
ONE = CircuitBreakers(max_connections=1, max_pending_requests=1)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream("v1", None) as server:
        yield server


@pytest.fixture
def mesh() -> Iterator[LocalMesh]:
    made = LocalMesh(None)
    yield made
    made.client().close()


def limited(mesh: LocalMesh, upstream: Upstream, limits: CircuitBreakers, **policy: float) -> None:
    """The mesh knows one endpoint behind a circuit breaker."""
    known = destination(HOST, {"v1": [endpoint(upstream.port)]}, sans=[])
    mesh.know(replaced(known, circuit_breakers=limits, connections=ConnectionPolicy("v1", **policy)))  # type: ignore[arg-type]


def replaced(known: Destination, **changes: object) -> Destination:
    clusters: dict[str, Cluster] = {name: replace(one, **changes) for name, one in known.clusters.items()}  # type: ignore[arg-type]
    return replace(known, clusters=clusters)


def protection(mesh: LocalMesh) -> Protection:
    (found,) = mesh.balancers.protections.values()
    return found


def outcome(mesh: LocalMesh, path: str, timeout: Timeout | None = None) -> str:
    try:
        response = mesh.client().send(Request("GET", "http", HOST, path), timeout=timeout or Timeout())
        assert response is not None
        b"".join(response)
        return str(response.status)
    except UpstreamError as error:
        return error.sighting.flag


async def outcome_async(mesh: LocalMesh, path: str, timeout: Timeout | None = None) -> str:
    try:
        response = await mesh.async_client().send(Request("GET", "http", HOST, path), timeout=timeout or Timeout())
        assert response is not None
        async for _ in response:
            pass
        return str(response.status)
    except UpstreamError as error:
        return error.sighting.flag


def assert_nothing_left(mesh: LocalMesh, *, connections: int) -> None:
    breaker = protection(mesh).breaker
    assert breaker is not None
    counts = (len(breaker.connections), len(breaker.pending), len(breaker.requests), len(breaker.retries))
    assert counts == (connections, 0, 0, 0)


@pytest.mark.parametrize(("callers", "requests"), [(2, 20), (3, 30)])
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_istios_task(mesh: LocalMesh, upstream: Upstream, shell: str, callers: int, requests: int) -> None:
    """B7: one connection, one who waits, each connection for one request. Two callers share it, of three one is refused."""
    limited(mesh, upstream, ONE, max_requests=1)
    path = "/slow?seconds=0.02"
    each = requests // callers

    def work() -> list[str]:
        return [outcome(mesh, path) for _ in range(each)]

    async def work_async() -> list[str]:
        return [await outcome_async(mesh, path) for _ in range(each)]

    async def together() -> list[list[str]]:
        return await asyncio.gather(*(work_async() for _ in range(callers)))

    if shell == "sync":
        with ThreadPoolExecutor(callers) as pool:
            found = list(pool.map(lambda _: work(), range(callers)))
    else:
        found = asyncio.run(together())
    counts = Counter(word for words in found for word in words)
    breaker = protection(mesh).breaker
    assert breaker is not None
    assert set(counts) <= {"200", "UO"}
    assert breaker.pending.overflows == counts["UO"]
    if callers == 2:
        assert counts["200"] >= 0.9 * requests
    else:
        assert 0.1 * requests <= counts["UO"] <= 0.6 * requests
    assert_nothing_left(mesh, connections=0)


async def test_the_oldest_is_served_first(mesh: LocalMesh, upstream: Upstream) -> None:
    """Who waits gets the connection when its response ends, one after the other; it is used again."""
    limited(mesh, upstream, CircuitBreakers(max_connections=1, max_pending_requests=9))
    order: list[int] = []

    async def one(number: int) -> None:
        assert await outcome_async(mesh, "/slow?seconds=0.03") == "200"
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(one(number))
            await asyncio.sleep(0.001)
    assert order == [0, 1, 2, 3, 4]
    assert_nothing_left(mesh, connections=1)


async def test_a_cancelled_wait_passes_the_turn_on(mesh: LocalMesh, upstream: Upstream) -> None:
    """And counts no longer."""
    limited(mesh, upstream, CircuitBreakers(max_connections=1, max_pending_requests=2))
    first = asyncio.create_task(outcome_async(mesh, "/slow?seconds=0.1"))
    await asyncio.sleep(0.03)
    gone, stays = (asyncio.create_task(outcome_async(mesh, "/who")) for _ in range(2))
    await asyncio.sleep(0.01)
    assert await outcome_async(mesh, "/who") == "UO"
    gone.cancel()
    assert await stays == "200"
    assert await first == "200"
    assert_nothing_left(mesh, connections=1)


@pytest.mark.parametrize("shell", ["sync", "async"])
def test_waiting_has_the_callers_limit(mesh: LocalMesh, upstream: Upstream, shell: str) -> None:
    """`Timeout.pool` is for it; the endpoint is not to blame."""
    limited(mesh, upstream, ONE)
    pool = Timeout(pool=0.05)

    async def both() -> list[str]:
        slow = asyncio.create_task(outcome_async(mesh, "/slow?seconds=0.3"))
        await asyncio.sleep(0.05)
        return [await outcome_async(mesh, "/who", pool), await slow]

    if shell == "async":
        assert asyncio.run(both()) == ["DC", "200"]
        return
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(outcome, mesh, "/slow?seconds=0.3")
        time.sleep(0.05)
        with pytest.raises(UpstreamTimeout) as told:
            mesh.client().send(Request("GET", "http", HOST, "/who"), timeout=pool)
        assert "pool timeout" in str(told.value)
        assert slow.result() == "200"
    assert_nothing_left(mesh, connections=1)


async def test_a_limit_on_requests(mesh: LocalMesh, upstream: Upstream) -> None:
    """Requests under way, whatever their connections."""
    limited(mesh, upstream, CircuitBreakers(max_requests=2))
    tasks = [asyncio.create_task(outcome_async(mesh, "/slow?seconds=0.1")) for _ in range(4)]
    assert Counter([await task for task in tasks]) == {"200": 2, "UO": 2}
    holding = [asyncio.create_task(outcome_async(mesh, "/slow?seconds=0.1")) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(UpstreamOverflow) as told:
        await mesh.async_client().send(Request("GET", "http", HOST, "/who"))
    assert told.value.status == 503
    assert [await task for task in holding] == ["200", "200"]


async def test_retries_have_a_limit_of_their_own(mesh: LocalMesh, upstream: Upstream) -> None:
    """What deserved another try and got none says so: UO beside the answer."""
    limited(mesh, upstream, CircuitBreakers(retry_budget=RetryBudget(0.0, 0)))
    response = await mesh.async_client().send(Request("GET", "http", HOST, "/status?code=503"))
    assert response is not None
    assert (response.status, response.sighting.flag, response.sighting.attempt) == (503, "UO", 1)
    b"".join([piece async for piece in response])
    (event,) = mesh.events
    assert (event.flags, event.detail) == ("UO", "via_upstream")


async def test_connections_grow_old(mesh: LocalMesh, upstream: Upstream) -> None:
    """By requests, by age, by idleness."""
    for policy in ({"max_requests": 2}, {"max_duration": 0.0}, {"idle_timeout": 0.0}):
        limited(mesh, upstream, ONE, **policy)
        for _ in range(3):
            assert await outcome_async(mesh, "/who") == "200"
            await asyncio.sleep(0.005)
        assert outcome(mesh, "/who") == "200"


async def test_both_shells_share_what_they_know(mesh: LocalMesh, upstream: Upstream) -> None:
    """An endpoint that failed one client's requests is left out for all."""
    known = destination(HOST, {"v1": [endpoint(upstream.port)]}, sans=[])
    rules = OutlierDetection(consecutive_5xx=3, max_ejection_percent=100)
    mesh.know(replaced(known, outlier_detection=rules))
    assert [await outcome_async(mesh, "/status?code=500"), outcome(mesh, "/status?code=500")] == ["500", "500"]
    assert await outcome_async(mesh, "/status?code=500") == "500"
    assert [await outcome_async(mesh, "/who"), outcome(mesh, "/who")] == ["UH", "UH"]
