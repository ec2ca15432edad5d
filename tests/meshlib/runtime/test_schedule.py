"""Timers and the wait after failures, on a clock of the test."""

from __future__ import annotations

import pytest

from meshlib.runtime.schedule import Timers, back_off


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.1), (2, 0.2), (6, 3.2), (7, 5.0), (1000, 5.0)])
def test_waits_after_failures(failures: int, longest: float) -> None:
    """Doubling up to a bound, between a tenth and all of it."""
    assert back_off(failures, 0.1, 5.0, 0.0) == pytest.approx(longest / 10)
    assert back_off(failures, 0.1, 5.0, 1.0) == pytest.approx(longest)


class Day:
    """A clock, timers, and what was done."""

    def __init__(self) -> None:
        self.now = 100.0
        self.done: list[str] = []
        self.timers = Timers(lambda: self.now)

    def breakfast(self) -> None:
        self.done.append("breakfast")

    def lunch(self) -> None:
        self.done.append("lunch")
        self.timers.cancel(self.dinner)

    def dinner(self) -> None:
        self.done.append("dinner")


def test_each_action_is_done_once_at_its_moment() -> None:
    """And never before; the wait is for the next one."""
    day = Day()
    assert day.timers.wait() is None
    day.timers.after(2.0, day.lunch)
    day.timers.after(1.0, day.breakfast)
    assert day.timers.wait() == 1.0
    day.timers.run_due()
    assert day.done == []
    day.now = 101.0
    day.timers.run_due()
    day.timers.run_due()
    assert day.done == ["breakfast"]
    day.now = 105.0
    assert day.timers.wait() == 0.0


def test_appointments_are_moved_and_cancelled() -> None:
    """The last word counts, also that of another action that is due at the same moment."""
    day = Day()
    day.timers.after(1.0, day.breakfast)
    day.timers.after(3.0, day.breakfast)
    day.timers.after(2.0, day.lunch)
    day.timers.after(2.0, day.dinner)
    day.now = 102.0
    day.timers.run_due()
    assert day.done == ["lunch"]
    assert day.dinner not in day.timers
    assert day.breakfast in day.timers
