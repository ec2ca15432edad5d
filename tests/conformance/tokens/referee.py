"""A run: cases are drawn, both sides judge their requests, what differs is told."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.conformance.tokens.arena import Seen, judge
from tests.conformance.tokens.drawing import Asked, Case, draw_case
from tests.conformance.tokens.verdict import differences

CASES, REQUESTS = 60, 50
"""At a time, and for each case."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request about which the sides disagree."""

    case: Case
    asked: Asked
    theirs: Seen
    ours: Seen

    def __str__(self) -> str:
        told = [f"  {aspect}: Envoy {their!r}, we {our!r}" for aspect, their, our in self.differences]
        return "\n".join([json.dumps(self.case.rules), repr(self.asked), *told])

    @property
    def differences(self) -> list[tuple[str, Any, Any]]:
        """What differs."""
        return differences(self.asked, self.theirs, self.ours)


@dataclass(slots=True)
class Result:
    """A run's outcome.

    Args:
        covered: how often Envoy answered what.
        stricter: requests that Envoy let through and we did not, for a reason that is written down.
    """

    requests: int = 0
    stricter: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    covered: Counter[str] = field(default_factory=Counter)


def run(count: int, seed: int) -> Result:
    """Judge at least `count` requests."""
    chance, result = Random(seed), Result()
    while result.requests < count:
        cases = [draw_case(chance, REQUESTS) for _ in range(min(CASES, -(-count // REQUESTS)))]
        with tempfile.TemporaryDirectory(prefix="tokens-") as folder:
            judged = asyncio.run(judge(cases, Path(folder)))
        for case, stories in zip(cases, judged, strict=True):
            for asked, (theirs, ours) in zip(case.requests, stories, strict=True):
                _note(result, Disagreement(case, asked, theirs, ours))
    return result


def _note(result: Result, story: Disagreement) -> None:
    result.requests += 1
    result.stricter += story.theirs.status == 200 != story.ours.status
    result.covered[f"{story.theirs.status} {story.theirs.words}".strip()] += 1
    if story.differences:
        result.disagreements.append(story)
