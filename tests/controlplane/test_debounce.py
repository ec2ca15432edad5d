from __future__ import annotations

from collections.abc import Callable

from meshlib_control.xds.debounce import Debounce


class FakeTime:
    """A clock that moves when told, and runs the timers that became due."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self, self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = end


class FakeTimer:
    def __init__(self, time: FakeTime, when: float, callback: Callable[[], None]) -> None:
        self.time, self.when, self.callback = time, when, callback

    def cancel(self) -> None:
        self.time.timers.remove(self)


def debounced(time: FakeTime) -> tuple[Debounce, list[float]]:
    fired: list[float] = []
    return Debounce(lambda: fired.append(time.now), lambda: time.now, time.call_later), fired


def test_one_change_fires_after_the_quiet_time() -> None:
    """100 ms later, once."""
    time = FakeTime()
    debounce, fired = debounced(time)
    debounce.changed()
    time.advance(0.099)
    assert fired == []
    assert debounce.pending
    time.advance(1)
    assert fired == [0.1]
    assert not debounce.pending


def test_a_burst_becomes_one_push() -> None:
    """The quiet time counts from the last change."""
    time = FakeTime()
    debounce, fired = debounced(time)
    for _ in range(5):
        debounce.changed()
        time.advance(0.05)
    time.advance(1)
    assert len(fired) == 1
    assert abs(fired[0] - 0.3) < 1e-6


def test_changes_without_end_are_pushed_every_second() -> None:
    """A mesh that never is quiet still gets its configuration."""
    time = FakeTime()
    debounce, fired = debounced(time)
    for _ in range(420):
        debounce.changed()
        time.advance(0.05)
    assert len(fired) == 20
    assert abs(fired[0] - 1.0) < 0.06


def test_cancel_forgets_the_change() -> None:
    """A server that stops does not push any more."""
    time = FakeTime()
    debounce, fired = debounced(time)
    debounce.changed()
    debounce.cancel()
    time.advance(1)
    assert fired == []
    debounce.changed()
    time.advance(1)
    assert len(fired) == 1
