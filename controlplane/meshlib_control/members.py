"""Who is a member of the mesh, kept on disk: a control plane that starts anew must not take everybody's endpoints away.

Services announce themselves by their streams, and come back one by one after a restart. The library holds losses back by
itself; Envoy and grpcio apply at once what they are sent. So those who were there before count as connected until they are,
or until everybody had the time to come back.

Rule 1: what is kept says who may be called, never who anybody is: peers prove that to each other with certificates. The worst
        that a stale or forged entry can do is a try that fails.
Rule 2: it is a convenience. A file that is damaged or cannot be written is told once, and all goes on without it.
Rule 3: who leaves while the control plane ends has left; so a mesh that is stopped as a whole leaves nobody behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from .errors import CannotStart
from .model import Node
from .private_file import replace_file
from .registry import Registry

FILE: Final = "members.json"
PERIOD: Final = 1.0  # seconds between looks at who is there
LEAVING: Final = 0.5  # seconds in which those who end together with the control plane are noticed
SHORTEST, LONGEST = 10.0, 30.0

_log = logging.getLogger(__name__)


def grace(outage: float) -> float:
    """How long former members count after a restart, in seconds.

    With waits that at most double, a client's next try comes no later than the outage was long. The longest wait of the
    library is 5 s, of Envoy 30 s (its default); only these two announce services.

    Args:
        outage: seconds for which there was no control plane.
    """
    return min(LONGEST, max(SHORTEST, outage))


def encoded(members: Sequence[Node]) -> bytes:
    """Members as a file's content."""
    return msgspec.json.encode(members)


def decoded(content: bytes) -> list[Node]:
    """The members of a file.

    Raises:
        ValueError: it holds something else.
    """
    return msgspec.json.decode(content, type=list[Node])


def recall(registry: Registry, folder: Path, clock: Callable[[], float]) -> float:
    """Let those who were there before a restart count as connected. Returns for how many seconds.

    To be called before the first world is published.

    Args:
        folder: of the control plane's data.
        clock: seconds since the epoch; the time of the file's last change is compared with it.
    """
    former, outage = _read(folder / FILE, clock)
    if not former:
        return 0.0
    registry.remember(former)
    seconds = grace(outage)
    _log.info("%d members from before the restart count as connected for %.0f s", len(former), seconds)
    return seconds


@contextlib.asynccontextmanager
async def kept(registry: Registry, folder: Path, seconds: float) -> AsyncIterator[None]:
    """Keep on disk who is there, and forget those who did not come back.

    To be entered once clients can connect, and left before their streams are ended.

    Args:
        seconds: for which those count who were recalled.
    """
    path, ended = folder / FILE, asyncio.Event()
    following = asyncio.create_task(_follow(registry, path, ended))
    forgetting = asyncio.create_task(_forget(registry, seconds))
    try:
        yield
        if registry.nodes:
            await asyncio.sleep(LEAVING)
    finally:
        forgetting.cancel()
        ended.set()  # not cancelled: a write in another thread must be over before the last one
        await asyncio.gather(following, forgetting, return_exceptions=True)
        _write(path, registry.members)


async def _forget(registry: Registry, seconds: float) -> None:
    await asyncio.sleep(seconds)
    missing = registry.forget_remembered()
    if missing:
        _log.info("%d members did not come back after the restart", missing)


async def _follow(registry: Registry, path: Path, ended: asyncio.Event) -> None:
    written: tuple[Node, ...] | None = None
    troubled = False
    while not ended.is_set():
        members = registry.members
        if members == written:
            _touch(path)
        else:
            troubled = not await asyncio.to_thread(_write, path, members, quiet=troubled)
            written = None if troubled else members
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), PERIOD)


def _read(path: Path, clock: Callable[[], float]) -> tuple[list[Node], float]:
    """Who was there, and for how long there was no control plane."""
    try:
        return decoded(path.read_bytes()), clock() - path.stat().st_mtime
    except FileNotFoundError:
        return [], 0.0
    except (OSError, ValueError) as error:
        _log.warning("%s is of no use (%s): Envoys may lose endpoints until all services are back", path, error)
        return [], 0.0


def _write(path: Path, members: Sequence[Node], *, quiet: bool = False) -> bool:
    try:
        replace_file(path, encoded(members), mode=0o600)
    except CannotStart as error:
        _log.log(logging.DEBUG if quiet else logging.WARNING, "%s: a restart would not know who was there", error.problem)
        return False
    return True


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone, or read-only now: the next change is told about
        path.touch(mode=0o600)
