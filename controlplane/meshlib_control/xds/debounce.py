"""Waits until changes stop coming, but not for ever: a burst becomes one push.

Quiet is Istio's 100 ms (PILOT_DEBOUNCE_AFTER). Istio waits at most 10 s (PILOT_DEBOUNCE_MAX), as its pushes are dear. Ours
cost what changed, so the longest wait is 1 s: one process that comes and goes without end must not delay everybody's changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

QUIET, LONGEST = 0.1, 1.0  # seconds


class Timer(Protocol):
    """A call that is due later; asyncio's TimerHandle is one."""

    def cancel(self) -> None:
        """The call does not happen."""


class Debounce:
    """Calls `fire` once `quiet` seconds after the last change, and at the latest `longest` seconds after the first.

    Args:
        fire: what to do; runs in the timer.
        clock: monotonic seconds.
        call_later: starts a timer, `(seconds, callback) -> Timer`; asyncio's `loop.call_later`.
        quiet, longest: seconds.
    """

    def __init__(
        self,
        fire: Callable[[], None],
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        quiet: float = QUIET,
        longest: float = LONGEST,
    ) -> None:
        self._fire = fire
        self._clock = clock
        self._call_later = call_later
        self._quiet = quiet
        self._longest = longest
        self._first: float | None = None
        self._last = 0.0
        self._timer: Timer | None = None

    @property
    def pending(self) -> bool:
        """Whether a change waits for its push."""
        return self._first is not None

    def changed(self) -> None:
        """Notes a change."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last
            self._arm()

    def cancel(self) -> None:
        """Forgets what waits; for shutting down."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._first = None

    def _arm(self) -> None:
        self._timer = self._call_later(max(0.0, self._due() - self._clock()), self._expired)

    def _due(self) -> float:
        assert self._first is not None
        return min(self._last + self._quiet, self._first + self._longest)

    def _expired(self) -> None:
        # One timer per burst, armed again if changes came meanwhile: cheaper than a new timer for each change.
        if self._first is None:
            return
        if self._clock() + 1e-6 < self._due():
            self._arm()
            return
        self._timer = self._first = None
        self._fire()
