"""Issuers' keys: when they are fetched, and what holds when they cannot be."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshlib_control.jwks import FILE, KEPT, LONGEST_PAUSE, REFRESH, KeySets, KeysUnavailable
from meshlib_control.key_set import NoKeySet, key_set
from meshlib_control.model import KeySource, MeshObject
from tests.conformance.tokens import forge
from tests.support.worlds import read

FIRST, SECOND = (json.dumps({"keys": [forge.pairs()[name].public]}).encode() for name in ("ec-ES256", "ec-ES384"))
SOURCE = KeySource("http://keys", "iss")


def objects(*rules: str) -> list[MeshObject]:
    """A RequestAuthentication with rules."""
    head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\nspec: {jwtRules: ["
    return list(read(f"{head}{', '.join(rules)}]}}").values())


RULE = "{issuer: iss, jwksUri: 'http://keys'}"


class Issuer:
    """Answers what it is told to, and lets time pass only when it is asked."""

    def __init__(self, *answers: bytes | str) -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[KeySource, float]] = []
        self.pauses: list[float] = []
        self.now = 1_000_000.0
        self.changes = 0
        self._waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def fetch(self, source: KeySource, seconds: float) -> bytes:
        self.asked.append((source, seconds))
        answer = self.answers.popleft()
        if isinstance(answer, str):
            raise KeysUnavailable(answer)
        return answer

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        woken = asyncio.Event()
        self._waiting.put_nowait(woken)
        await woken.wait()
        self.now += seconds

    def changed(self) -> None:
        self.changes += 1

    async def settled(self, turns: int = 1) -> None:
        """Until it was asked so many times more, and is waited for again."""
        for turn in range(turns):
            woken = await self._waiting.get()
            if turn < turns - 1:
                woken.set()
            else:
                self._waiting.put_nowait(woken)

    def key_sets(self, folder: Path) -> KeySets:
        return KeySets(self.changed, folder / FILE, lambda: self.now, self.fetch, self.sleep)


@asynccontextmanager
async def following(issuer: Issuer, folder: Path, *rules: str) -> AsyncIterator[KeySets]:
    """Key sets of an object with these rules."""
    sets = issuer.key_sets(folder)
    async with sets.following(objects(*(rules or (RULE,)))):
        yield sets


async def test_keys_are_fetched_at_once_and_every_20_minutes(tmp_path: Path) -> None:
    """Who listens is told when they are others, and only then."""
    issuer = Issuer(FIRST, FIRST, SECOND)
    async with following(issuer, tmp_path) as sets:
        await issuer.settled()
        assert (sets.known, issuer.changes) == ({SOURCE: key_set(FIRST)}, 1)
        await issuer.settled(2)
        assert issuer.changes == 1
        await issuer.settled(2)
        assert (sets.known, issuer.changes) == ({SOURCE: key_set(SECOND)}, 2)
    assert issuer.pauses == [REFRESH] * 3
    assert issuer.asked == [(SOURCE, 5.0)] * 3


async def test_after_a_failure_they_are_fetched_sooner_and_the_last_good_ones_hold(tmp_path: Path) -> None:
    """After 1, 2, 4 ... seconds, at most a minute."""
    issuer = Issuer(FIRST, *["no route"] * 8, SECOND)
    async with following(issuer, tmp_path) as sets:
        await issuer.settled(9)
        assert (sets.known, sets.problems) == ({SOURCE: key_set(FIRST)}, {SOURCE: "no route"})
        await issuer.settled(2)
        assert (sets.known, sets.problems) == ({SOURCE: key_set(SECOND)}, {})
    assert issuer.pauses == [REFRESH, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, REFRESH]


async def test_the_last_good_keys_hold_for_a_week(tmp_path: Path) -> None:
    """Then somebody should have noticed, and nobody knows whom they prove."""
    issuer = Issuer(FIRST, "no route", "no route")
    async with following(issuer, tmp_path) as sets:
        await issuer.settled(2)
        issuer.now += KEPT
        await issuer.settled(2)
        assert (sets.known, issuer.changes) == ({}, 2)


async def test_a_restart_while_the_issuer_is_down_locks_nobody_out(tmp_path: Path) -> None:
    """Keys are kept on disk; a damaged file is told and costs nothing else."""
    issuer = Issuer(FIRST)
    async with following(issuer, tmp_path):
        await issuer.settled()
    again = Issuer("down")
    async with following(again, tmp_path) as sets:
        await again.settled()
        assert (sets.known, sets.problems) == ({SOURCE: key_set(FIRST)}, {SOURCE: "down"})
    late = Issuer()
    late.now += KEPT
    assert late.key_sets(tmp_path).known == {}
    (tmp_path / FILE).write_text("[{")
    assert Issuer().key_sets(tmp_path).known == {}


async def test_keys_that_no_rule_names_are_forgotten(tmp_path: Path) -> None:
    """And not asked for any more; new ones are, at once."""
    issuer = Issuer(FIRST, SECOND)
    async with following(issuer, tmp_path) as sets:
        await issuer.settled()
        sets.follow(objects("{issuer: other, timeout: 2s}"))
        await issuer.settled(2)
        assert issuer.asked[1] == (KeySource("", "other"), 2.0)
        assert set(sets.known) == {KeySource("", "other")}


async def test_rules_with_keys_of_their_own_ask_nobody(tmp_path: Path) -> None:
    """And one source is asked once, with the patience of its most patient rule."""
    issuer = Issuer(FIRST)
    rules = ("{issuer: a, jwks: '{\"keys\": []}'}", RULE, "{issuer: iss, jwksUri: 'http://keys', timeout: 9s}")
    async with following(issuer, tmp_path, *rules):
        await issuer.settled()
    assert issuer.asked == [(SOURCE, 9.0)]


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b'{"keys": 5}', b'{"keys": [5]}', b'{"keys": []}', b"[" * 100_000]
)
async def test_what_is_no_key_set_is_a_failure(tmp_path: Path, answer: bytes) -> None:
    """It is not handed on, and the last good keys hold."""
    issuer = Issuer(FIRST, answer)
    async with following(issuer, tmp_path) as sets:
        await issuer.settled(2)
        assert sets.known == {SOURCE: key_set(FIRST)}
        assert SOURCE in sets.problems
    with pytest.raises(NoKeySet):
        key_set(answer)


def test_equal_keys_are_equal_however_they_are_written() -> None:
    """Else every refresh of some issuers would be a push."""
    first, second = (forge.pairs()[name].public for name in ("rsa", "ed"))
    write: Callable[[object], bytes] = lambda keys: json.dumps({"x": 1, "keys": keys}, indent=2).encode()  # noqa: E731
    assert key_set(write([first, second])) == key_set(write([second, dict(reversed(first.items()))]))
