"""Circuit breakers and outlier detection of calls, in both APIs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest

from meshlib.config.protection import CircuitBreakers, OutlierDetection
from meshlib.errors import NoHealthyUpstream, UpstreamOverflow
from tests.adapters.grpc.conftest import Scene
from tests.adapters.grpc.test_calls import refused


def protect(scene: Scene, **changes: Any) -> None:
    """The cluster of reviews gets limits or ejections."""
    (known,) = scene.mesh.snapshot.destinations.values()
    clusters = {name: replace(one, **changes) for name, one in known.clusters.items()}
    scene.mesh.know(replace(known, clusters=clusters))


@pytest.mark.parametrize(("code", "ejects"), [("UNAVAILABLE", True), ("UNKNOWN", True), ("NOT_FOUND", False)])
async def test_codes_count_as_the_statuses_that_say_the_same(scene: Scene, code: str, ejects: bool) -> None:
    """UNAVAILABLE is a 503, UNKNOWN a 500, NOT_FOUND a 404."""
    protect(scene, outlier_detection=OutlierDetection(consecutive_5xx=2, max_ejection_percent=100))
    for _ in range(2):
        error = await refused(scene.caller.one(f"abort code={code} times=9".encode()))
        assert error.code() is grpc.StatusCode[code]
    if not ejects:
        assert (await scene.caller.one())["name"] == "v1"
        return
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error.__cause__, NoHealthyUpstream)


async def test_calls_overflow(scene: Scene) -> None:
    """One call at a time: the next is refused at once, until the first has ended."""
    protect(scene, circuit_breakers=CircuitBreakers(max_requests=1))
    call = await scene.caller.begin("Many", b"endless")
    await call.next()
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error.__cause__, UpstreamOverflow)
    call.cancel()
    assert await scene.flags(2) == ["UO", "DC"]
    assert (await scene.caller.one())["name"] == "v1"
