"""Whose turn it is for a connection, where a cluster limits them: decisions on data, carried out by the shells.

One client's connections to each endpoint, as Envoy's pool of one host in one worker: the cluster's limit counts the
connections of all clients, but an endpoint to which this client has none may always have one, so that nobody waits for ever.

Rule 1: who finds no idle connection and may not make one waits, the oldest first, and counts as pending until its turn comes:
not until it wakes up, when those who woke it may be back already.
Rule 2: a connection whose exchange is over goes to the oldest who waits for its endpoint.
Rule 3: when a connection ends, the oldest who waits may make one in its place, if the limit still lets it.

Nothing here waits or locks; a waiter is a future of whatever kind. The asyncio client calls from one loop, the blocking client
under its lock.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from meshlib.outbound.limits import Breaker
from meshlib.runtime.pool import Key

C = TypeVar("C")
_Contra = TypeVar("_Contra", contravariant=True)


class Waiter(Protocol[_Contra]):
    """Where somebody waits for a connection, or for the slot of one that it may make."""

    def done(self) -> bool:
        """Whether it was told something, or gave up."""

    def set_result(self, result: _Contra | Slot, /) -> None:
        """Wake it."""


class Slot:
    """A connection that counts, from before it is made until it is gone."""

    __slots__ = ("_freed",)

    def __init__(self, freed: Callable[[], None]) -> None:
        self._freed: Callable[[], None] | None = freed

    def free(self) -> None:
        """It is gone. Calling it again changes nothing."""
        freed, self._freed = self._freed, None
        if freed is not None:
            freed()


class Turns(Generic[C]):
    """The connections of one client to endpoints of limited clusters, and who waits for them."""

    def __init__(self) -> None:
        self._open: Counter[Key] = Counter()
        self._waiting: defaultdict[Key, deque[tuple[Waiter[C], Breaker]]] = defaultdict(deque)

    def __repr__(self) -> str:
        return f"<Turns {self._open.total()} open, {sum(map(len, self._waiting.values()))} waiting>"

    def open(self, key: Key, breaker: Breaker) -> Slot | None:
        """Count one more connection; None: there may be none."""
        if not breaker.connect(first=not self._open[key]):
            return None
        self._open[key] += 1
        return Slot(lambda: self._closed(key, breaker))

    def _closed(self, key: Key, breaker: Breaker) -> None:
        breaker.connections.leave()
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
        if self._waiting.get(key):
            slot = self.open(key, breaker)
            if slot is not None and not self.hand(key, slot):
                slot.free()

    def wait(self, key: Key, waiter: Waiter[C], breaker: Breaker) -> bool:
        """Stand in line, unless too many do."""
        if not breaker.pend():
            return False
        self._waiting[key].append((waiter, breaker))
        return True

    def hand(self, key: Key, found: C | Slot) -> bool:
        """Give a connection, or the right to make one, to the oldest who waits; False: nobody does."""
        line = self._waiting.get(key)
        while line:
            waiter, breaker = line.popleft()
            breaker.pending.leave()
            if not line:
                del self._waiting[key]
            if not waiter.done():
                waiter.set_result(found)
                return True
        return False

    def leave(self, key: Key, waiter: Waiter[C]) -> None:
        """Stand in line no longer."""
        line = self._waiting.get(key, ())
        entry = next((entry for entry in line if entry[0] is waiter), None)
        if entry is not None:
            self._waiting[key].remove(entry)
            entry[1].pending.leave()
            if not self._waiting[key]:
                del self._waiting[key]
