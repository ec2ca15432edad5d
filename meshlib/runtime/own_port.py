"""What our own port accepts, from what is known about it: decisions on data.

    its listener is known                  its policy; also what an earlier process left on disk, and the last good one
    its first listener was refused         closed
    the control plane knows no such port   closed, as a port without a listener is in Envoy and gRPC
    the control plane is away              open to everybody, with a warning; closed with MESHLIB_STRICT
    asked for                              undecided: requests wait, PATIENCE at most; then closed
    no server of ours was announced        open, with a warning at the first request; closed with MESHLIB_STRICT

Rule 1: `accepts` is one reference to one immutable value; requests read it without a lock and without asking.
Rule 2: whoever announces a port makes it undecided in the same moment: no request comes in before somebody has decided.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from meshlib.config.policy import InboundListener
from meshlib.config.snapshot import Snapshot
from meshlib.config.subscription import Item, Update
from meshlib.inbound.admit import InboundPort, port_of
from meshlib.inbound.closed import Closed
from meshlib.runtime.events import State

LONGEST_WAIT = 2.5
"""Seconds that a request waits; a little above the control thread's own patience, which decides first."""

UNSERVED = InboundPort()
"""No server of ours was announced."""
_OPEN = InboundPort(filters=())

_log = logging.getLogger("meshlib")


def closed(reason: str) -> InboundPort:
    """A port that nobody enters."""
    return InboundPort(filters=(Closed(reason),))


def _running() -> Future[InboundPort]:
    made: Future[InboundPort] = Future()
    made.set_running_or_notify_cancel()  # from here on a request that gives up cannot cancel it for the others
    return made


@dataclass(frozen=True, slots=True)
class Undecided(InboundPort):
    """Nothing is known yet: connections are looked at, requests wait for `later`."""

    later: Future[InboundPort] = field(default_factory=_running, compare=False, repr=False)

    def settled(self) -> InboundPort:
        """The port once it is decided. Waits some seconds at most."""
        try:
            return self.later.result(LONGEST_WAIT)
        except TimeoutError:
            return _IN_VAIN

    async def settled_async(self) -> InboundPort:
        """As `settled`, for the running event loop."""
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                return await asyncio.wrap_future(self.later)
        except TimeoutError:
            return _IN_VAIN


_IN_VAIN = closed("the control plane has not told the policy of this port yet")
_ABSENT = closed("the control plane knows no such port")
_AWAY = closed("the control plane does not answer, nothing is known about who may enter, and MESHLIB_STRICT is set")
_UNREGISTERED = closed("no port of this process is registered, and MESHLIB_STRICT is set")


class OwnPort:
    """One process's port. `accepts` and `expect` are for every thread, the rest is the control thread's.

    Args:
        strict: whether to refuse where nothing can be known.
    """

    def __init__(self, *, strict: bool) -> None:
        self.accepts: InboundPort = UNSERVED
        self._strict = strict
        self._lock = threading.Lock()
        self._refused: dict[str, str] = {}  # why, by listener
        self._in_vain = False
        self._listener: InboundListener | None = None
        self._left: dict[str, Item] = {}

    def expect(self) -> None:
        """Another port is about to be announced."""
        self._now(Undecided())

    def remember(self, items: Iterable[Item]) -> None:
        """The listeners that an earlier process left."""
        self._left = {item.name: item for item in items if isinstance(item.value, InboundListener)}

    def left(self, policy: str) -> tuple[Item, ...]:
        """What an earlier process left for this port, the first time that it is asked for."""
        item = self._left.pop(policy, None)
        return () if item is None else (item,)

    def be_patient(self) -> None:
        """Somebody answers, or is asked for something new."""
        self._in_vain = False

    def lose_patience(self) -> None:
        """Requests have waited long enough."""
        self._in_vain = True

    def told(self, policy: str, update: Update) -> None:
        """A response about listeners came in."""
        if policy in update.refused:
            self._refused[policy] = update.problem
        elif not update.problem and any(item.name == policy for item in update.items):
            self._refused.pop(policy, None)

    def decide(self, policy: str, snapshot: Snapshot, state: State) -> None:
        """Bring `accepts` up to date.

        Args:
            policy: the name of our port's listener; empty: nothing is served.
        """
        if not policy:
            return
        listener = snapshot.inbound.get(policy)
        if listener is not None:
            self._obey(policy, listener)
            return
        found = self._without_listener(policy, snapshot, state)
        if found != self.accepts or (found is _OPEN and self.accepts is not _OPEN):  # an empty policy looks the same
            _tell(policy, found)
            self._now(found)
        self._listener = None

    def _obey(self, policy: str, listener: InboundListener) -> None:
        if listener is self._listener and not isinstance(self.accepts, Undecided):
            return
        if self.accepts is _OPEN or _is_closed(self.accepts):
            _log.info("meshlib: the policy of %s is in force", _port(policy))
        self._listener = listener
        self._now(port_of(listener))

    def _without_listener(self, policy: str, snapshot: Snapshot, state: State) -> InboundPort:
        if policy in self._refused:
            return closed(f"its first policy was refused: {self._refused[policy]}")
        if policy in snapshot.absent:
            return _ABSENT
        if state is State.DOWN:
            return _AWAY if self._strict else _OPEN
        return _IN_VAIN if self._in_vain else Undecided()

    def _now(self, port: InboundPort) -> None:
        with self._lock:
            before = self.accepts
            if isinstance(before, Undecided):
                if isinstance(port, Undecided):
                    return
                before.later.set_result(port)
            self.accepts = port


def unregistered(*, strict: bool) -> InboundPort:
    """What a process accepts that has announced no port: nobody can have said who may enter there."""
    return _UNREGISTERED if strict else UNSERVED


def _is_closed(port: InboundPort) -> bool:
    return any(isinstance(one, Closed) for one in port.filters)


def _tell(policy: str, port: InboundPort) -> None:
    for one in port.filters:
        if isinstance(one, Closed):
            _log.error("meshlib: %s refuses every request: %s", _port(policy), one.reason)
    if port is _OPEN:
        _log.warning(
            "meshlib: %s lets everybody in, whatever policies say: the control plane does not answer, and no earlier "
            "process left what it said. MESHLIB_STRICT=1 refuses instead",
            _port(policy),
        )


def _port(policy: str) -> str:
    return f"the port {policy.rpartition('/')[2]}"
