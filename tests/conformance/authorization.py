"""The authorization referee: random policies and hostile requests; whom Envoy refuses, we must refuse.

`make conformance KIND=authorization N=1000000 SEED=7`. Each Envoy serves many ports with policies of their own; requests are
sent on few connections, over plain text and with several certificates.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.conformance.authorization_drawing import IDENTITIES, World, world
from tests.conformance.authorization_requests import request
from tests.conformance.authorization_sides import Caller, Line, Ours, Seen, callers, decoded, listener, theirs
from tests.support.pki import Authority

PORTS = 60
"""Listeners of one Envoy."""
QUESTIONS = 40
"""Requests of one caller to one listener."""
_SHOWN = 10


@dataclass(frozen=True)
class Disagreement:
    """A request about which Envoy and we say different things."""

    world: World
    identity: str
    request: bytes
    theirs: Seen
    ours: Seen

    def __str__(self) -> str:
        kind = "ENVOY DENIES, WE ALLOW" if self.ours.entered and not self.theirs.entered else "differs"
        said = f"  Envoy {self.theirs}\n  we    {self.ours}\n  {self.world}"
        return f"{kind}: {self.request!r} of {self.identity or 'nobody'}\n{said}"


@dataclass
class Result:
    """What a run found.

    Args:
        covered: how often what happened.
    """

    requests: int = 0
    covered: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def __str__(self) -> str:
        agreed = self.requests - len(self.disagreements)
        return f"{agreed} of {self.requests} requests agree"

    def add(self, found: Disagreement) -> None:
        """Judge what both sides said."""
        self.requests += 1
        self.covered[_kind(found.theirs, found.ours)] += 1
        if not agree(found.theirs, found.ours):
            self.disagreements.append(found)


def agree(theirs: Seen, ours: Seen) -> bool:
    """Whether two answers are the same decision.

    Who enters must be given the same path and authority. Reasons for a refusal may differ, and with 400 we may refuse more:
    what our server's parser does not read, and two Host headers.
    """
    if theirs.entered and ours.entered:
        return theirs == ours
    return theirs.entered == ours.entered or ours.status == 400


def _kind(theirs: Seen, ours: Seen) -> str:
    return f"Envoy_{theirs.status}, we {ours.status}"


def run(count: int, seed: int, tell: Callable[[str], None] = print) -> Result:
    """Judge `count` requests, drawn from `seed`."""
    return asyncio.run(_run(count, seed, tell))


async def _run(count: int, seed: int, tell: Callable[[str], None]) -> Result:
    draw, result, ours = Random(seed), Result(), Ours()
    authority = Authority()
    known = callers(authority, IDENTITIES)
    while result.requests < count:
        told = len(result.disagreements)
        for found in _round(draw, authority, known, ours, count - result.requests):
            result.add(found)
        for one in result.disagreements[told:_SHOWN]:
            tell(str(one))
        tell(f"{result} so far")
    return result


def _round(draw: Random, authority: Authority, known: list[Caller], ours: Ours, most: int) -> Iterator[Disagreement]:
    """One Envoy's worth of questions."""
    server = authority.issue("reviews")
    worlds = {f"port{number}": world(draw) for number in range(PORTS)}
    written = {name: listener(name, one, authority, server) for name, one in worlds.items()}
    with tempfile.TemporaryDirectory() as folder, theirs(list(written.values()), Path(folder)) as ports:
        for name, one in worlds.items():
            port = decoded(written[name])
            for caller in known:
                requests = [request(draw) for _ in range(min(QUESTIONS, most))]
                most -= len(requests)
                with closing(Line(ports[name], caller, authority)) as line:
                    for asked in requests:
                        peer, local = line.peer, line.local
                        seen = line.ask(asked)
                        yield Disagreement(one, caller.identity, asked, seen, ours.answer(port, asked, peer, local))
