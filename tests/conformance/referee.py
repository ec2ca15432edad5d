"""A run: cases are drawn, both sides carry their requests out, what differs is confirmed, minimised and told."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvloop
import yaml

from tests.conformance import arena, drawing, shrink
from tests.conformance.arena import Arena, Judged
from tests.conformance.cases import Case
from tests.conformance.verdict import Difference, differences

BATCH = 120
"""Cases in force at the same time."""
CONFIRMATIONS = 8
"""How often a disagreement is asked about again. A time-out that never comes back was noise, on a busy machine."""
MINIMISED = 12
"""Disagreements that are minimised in one run; more are only counted."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request about which the sides disagree.

    Args:
        repeats: it came back when asked about again; only then it can be minimised.
    """

    judged: Judged
    differences: tuple[Difference, ...]
    repeats: bool = True

    @property
    def kind(self) -> str:
        """What differs: the same for disagreements with the same cause, mostly."""
        return ", ".join(difference.aspect for difference in self.differences)

    def __str__(self) -> str:
        judged = self.judged
        objects = "---\n".join(yaml.safe_dump(item, allow_unicode=True, sort_keys=False) for item in judged.case.objects)
        told = [f"  {difference}" for difference in self.differences]
        notes = [f"  Envoy says: {judged.theirs.note}", f"  we say: {judged.ours.note}"]
        return "\n".join([objects, repr(judged.asked), *told, *notes])


@dataclass(slots=True)
class Result:
    """A run's outcome.

    Args:
        noise: differences in time-outs that did not come back.
        covered: how often each status, flag, ... was seen, for the reader to judge how much was tried.
    """

    requests: int = 0
    noise: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    covered: Counter[str] = field(default_factory=Counter)

    @property
    def agreed(self) -> int:
        """Requests about which both sides say the same."""
        return self.requests - len(self.disagreements)

    def __str__(self) -> str:
        fraction = self.agreed / self.requests if self.requests else 0.0
        return f"{self.agreed} of {self.requests} requests agree ({fraction:.6f}); {self.noise} differed once and not again"


def run(count: int, number: int, say: Say) -> Result:
    """Draw cases until `count` requests are judged; `number` is the seed."""
    return uvloop.run(_run(count, number, say))


async def _run(count: int, number: int, say: Say) -> Result:
    result, started = Result(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder, arena.opened(Path(folder), number) as running:
        drawn = drawing.batches(count, number, BATCH)
        while (batch := await asyncio.to_thread(next, drawn, None)) is not None:
            await _judge(running, batch, result, say)
            say(f"{result} after {time.monotonic() - started:.0f} s")
        result.disagreements = await _minimised(running, result.disagreements, say)
    return result


async def _judge(running: Arena, batch: Sequence[Case], result: Result, say: Say) -> None:
    for story in [one for case in await running.judge(batch) for one in case]:
        result.requests += 1
        _count(result.covered, story)
        found = differences(story.asked, story.theirs, story.ours)
        if found:
            again = await _confirmed(running, story)
            once = Disagreement(replace(story, case=replace(story.case, requests=(story.asked,))), tuple(found), repeats=False)
            if again is None:
                say(f"differed once: {story.asked}: {'; '.join(map(str, found))}; we say {story.ours.note}")
            if again is None and "UT" in story.theirs.flags | story.ours.flags:
                result.noise += 1
            else:
                result.disagreements.append(again or once)


def _count(covered: Counter[str], story: Judged) -> None:
    seen = story.theirs
    covered[f"status {seen.status}"] += 1
    covered[f"flags {','.join(sorted(seen.flags)) or '-'}"] += 1
    covered[f"tries {len(seen.tries)}"] += 1
    covered[f"route {seen.route.partition('.')[0] or '-'}"] += 1


async def _confirmed(running: Arena, story: Judged) -> Disagreement | None:
    """The disagreement, if it comes back when the request is made again, alone."""
    alone = replace(story.case, requests=(story.asked,))
    for again in await running.judge([alone] * CONFIRMATIONS):
        found = differences(again[0].asked, again[0].theirs, again[0].ours)
        if found:
            return Disagreement(again[0], tuple(found))
    return None


async def _minimised(running: Arena, found: Sequence[Disagreement], say: Say) -> list[Disagreement]:
    """One small example of each kind; the rest as they are."""
    kinds: dict[str, Disagreement] = {}
    for one in sorted(found, key=lambda one: not one.repeats):
        kinds.setdefault(one.kind, one)
    small = {}
    for kind, one in list(kinds.items())[:MINIMISED]:
        small[kind] = await _smallest(running, one) if one.repeats else one
        say(f"\nDISAGREEMENT, {sum(other.kind == kind for other in found)} times: {kind}\n{small[kind]}")
    return [small.pop(one.kind, one) for one in found]


async def _smallest(running: Arena, one: Disagreement) -> Disagreement:
    aspects = {difference.aspect for difference in one.differences}

    async def still(candidates: Sequence[Case]) -> list[bool]:
        judged = await running.judge(candidates)
        return [
            aspects == {difference.aspect for difference in differences(story.asked, story.theirs, story.ours)}
            for (story,) in judged
        ]

    case = await shrink.smallest(one.judged.case, still)
    for (story,) in await running.judge([case] * CONFIRMATIONS):
        found = differences(story.asked, story.theirs, story.ours)
        if found:
            return Disagreement(story, tuple(found))
    return one
