"""Keys of issuers, fetched by the control plane and handed on with the configuration (Istio: JwksResolver).

    RequestAuthentication -> follow -> one task for each source: fetch, wait, fetch again -> known -> World.key_sets

Rule 1: keys are fetched as soon as a rule names their source, then every 20 minutes.
Rule 2: after a failure sooner: after 1 s, 2 s, 4 s, at most a minute. Meanwhile the last good keys hold, for a week. They are
        kept on disk: a control plane that starts anew while an issuer is down must not lock out all of its users.
Rule 3: without keys no token is good (`key_set.NOBODYS_KEYS`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from .errors import CannotStart
from .key_set import NoKeySet, key_set, key_source
from .kinds import RequestAuthentication
from .model import KeySource, MeshObject
from .private_file import replace_file

FILE: Final = "jwks.json"
TIMEOUT: Final = 5.0  # seconds, where a rule names none
REFRESH: Final = 20 * 60.0
LONGEST_PAUSE: Final = 60.0  # after failures
KEPT: Final = 7 * 24 * 3600.0  # last good keys
AT_ONCE: Final = 16  # sources

_log = logging.getLogger(__name__)

Fetch = Callable[[KeySource, float], Awaitable[bytes]]
"""`(source, seconds) -> content`; raises KeysUnavailable."""


class KeysUnavailable(Exception):
    """A source gives no keys now; the text says why."""


class KeptKeys(msgspec.Struct, frozen=True):
    """Keys as they were fetched.

    Args:
        fetched: seconds since the epoch.
    """

    uri: str
    issuer: str
    keys: str
    fetched: float


async def fetch_keys(source: KeySource, seconds: float) -> bytes:
    """What a source answers."""
    from .key_fetch import fetch  # an HTTP client takes a while to import, and most meshes need none here

    return await fetch(source, seconds)


class KeySets:
    """The keys of all sources that rules name.

    Args:
        changed: called when keys are others than before.
        path: where they are kept.
        clock: seconds since the epoch.
        fetch, sleep: how to ask and how to wait.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        path: Path,
        clock: Callable[[], float],
        fetch: Fetch = fetch_keys,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._changed = changed
        self._path = path
        self._clock = clock
        self._fetch = fetch
        self._sleep = sleep
        # Replaced as a whole, never changed: other threads read them.
        self._kept: Mapping[KeySource, KeptKeys] = {source: one for source, one in _read(path) if not self._is_old(one)}
        self._problems: Mapping[KeySource, str] = {}
        self._timeouts: Mapping[KeySource, float] = {}
        self._tasks: dict[KeySource, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def known(self) -> Mapping[KeySource, str]:
        """Keys that hold now."""
        return {source: one.keys for source, one in self._kept.items()}

    @property
    def problems(self) -> Mapping[KeySource, str]:
        """Why sources could not be asked the last time."""
        return self._problems

    def follow(self, objects: Iterable[MeshObject]) -> None:
        """From now on fetch the keys of these objects' rules, and no others. Safe to call from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._follow, _timeouts(objects))

    @contextlib.asynccontextmanager
    async def following(self, objects: Iterable[MeshObject]) -> AsyncIterator[None]:
        """Fetches while it is entered."""
        self._loop = asyncio.get_running_loop()
        self._follow(_timeouts(objects))
        try:
            yield
        finally:
            self._loop = None
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _follow(self, timeouts: Mapping[KeySource, float]) -> None:
        self._timeouts = timeouts
        self._kept = {source: one for source, one in self._kept.items() if source in timeouts}
        self._problems = {source: why for source, why in self._problems.items() if source in timeouts}
        for source in self._tasks.keys() - timeouts.keys():
            self._tasks.pop(source).cancel()
        for source in timeouts.keys() - self._tasks.keys():
            self._tasks[source] = asyncio.create_task(self._refresh(source))

    async def _refresh(self, source: KeySource) -> None:
        failures = 0
        while True:
            try:
                async with self._turns:
                    keys = key_set(await self._fetch(source, self._timeouts[source]))
            except (KeysUnavailable, NoKeySet) as error:
                failures += 1
                self._failed(source, str(error))
            else:
                failures = 0
                self._succeeded(source, keys)
            await self._sleep(min(LONGEST_PAUSE, 2.0 ** min(failures - 1, 10)) if failures else REFRESH)

    def _succeeded(self, source: KeySource, keys: str) -> None:
        before = self._kept.get(source)
        self._problems = {other: why for other, why in self._problems.items() if other != source}
        self._kept = {**self._kept, source: KeptKeys(source.uri, source.issuer, keys, self._clock())}
        self._write()
        if before is None or before.keys != keys:
            _log.info("the keys of %s are %s", source, "new" if before else "there")
            self._changed()

    def _failed(self, source: KeySource, why: str) -> None:
        if source in self._kept and self._is_old(self._kept[source]):
            self._kept = {other: one for other, one in self._kept.items() if other != source}
            self._changed()
        if self._problems.get(source) != why:
            held = "its last good keys hold" if source in self._kept else "until it does, its tokens are refused"
            _log.warning("%s gives no keys: %s; %s", source, why, held)
        self._problems = {**self._problems, source: why}

    def _is_old(self, one: KeptKeys) -> bool:
        return one.fetched <= self._clock() - KEPT

    def _write(self) -> None:
        try:
            replace_file(self._path, msgspec.json.encode(list(self._kept.values())), mode=0o600)
        except CannotStart as error:  # its name for a disk that is full or read-only
            _log.warning("%s: a restart would have to fetch all keys first", error.problem)


def _timeouts(objects: Iterable[MeshObject]) -> dict[KeySource, float]:
    """The sources that rules name, and for how long each may take."""
    found: dict[KeySource, float] = {}
    for item in objects:
        for rule in item.spec.jwt_rules if isinstance(item.spec, RequestAuthentication) else ():
            if not rule.jwks:
                seconds = rule.timeout if rule.timeout is not None else TIMEOUT
                source = key_source(rule)
                found[source] = max(found.get(source, 0.0), seconds)
    return found


def _read(path: Path) -> list[tuple[KeySource, KeptKeys]]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[KeptKeys])
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        _log.warning("%s is of no use (%s): tokens are refused until the keys are fetched", path, error)
        return []
    return [(KeySource(one.uri, one.issuer), one) for one in found]
