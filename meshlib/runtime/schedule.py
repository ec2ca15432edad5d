"""When to act: what is due, and how long to wait after a failure."""

from __future__ import annotations

from collections.abc import Callable, Hashable

Action = Callable[[], None]


def back_off(failures: int, first: float, longest: float, chance: float) -> float:
    """Seconds before the next try: doubling, a tenth fixed and the rest chance, so that not everybody comes back at once.

    When a stream breaks it breaks for all. Of 1,000 clients with a first wait of 1 s at most 170 come back in any 100 ms,
    however long the control plane was away; half to all of 0.1 s at first would send 700 at once after a short restart.

    Args:
        failures: tries that failed since the last success; at least 1.
        first, longest: seconds, the bounds of the doubling.
        chance: uniform in [0.0, 1.0).
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.1 + 0.9 * chance)


class Timers:
    """Actions, each to be done once at its moment. For one thread.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moments: dict[Action, float] = {}

    def __contains__(self, action: Hashable) -> bool:
        return action in self._moments

    def after(self, seconds: float, action: Action) -> None:
        """Do it then; an earlier appointment of the same action is dropped."""
        self._moments[action] = self._clock() + seconds

    def cancel(self, action: Action) -> None:
        """Do not do it; nothing happens if it was not to be done."""
        self._moments.pop(action, None)

    def wait(self) -> float | None:
        """Seconds until something is due, not below 0.0; None: nothing is."""
        return max(0.0, min(self._moments.values()) - self._clock()) if self._moments else None

    def run_due(self) -> None:
        """Do what is due. An action may cancel or appoint others, which wait for the next call."""
        now = self._clock()
        for action in [action for action, at in self._moments.items() if at <= now]:
            if self._moments.pop(action, None) is not None:
                action()
