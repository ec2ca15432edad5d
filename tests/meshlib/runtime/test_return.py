"""The control plane was away and is back: 1,000 clients return to it, on a simulated clock, without a burst."""

from __future__ import annotations

import heapq
import logging
import queue
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from meshlib.config.subscription import Ask
from meshlib.errors import ControlPlaneError
from meshlib.runtime.control import GRACE, LONGEST_RETRY, Control
from meshlib.runtime.events import Announcement, State, Wanted
from meshlib.runtime.settings import Settings

CLIENTS = 1000


class Link:
    """A stream that leads nowhere."""

    def send(self, asks: Iterable[Ask]) -> None:
        pass

    def close(self) -> None:
        pass


class Clients:
    """Real `Control`s without their threads: what a thread would do is done when its time has come."""

    def __init__(self, folder: Path, count: int) -> None:
        self.now = 0.0
        self.away = (0.0, 0.0)  # from, until
        self.arrivals: list[float] = []
        self._ends: dict[int, Callable[[ControlPlaneError], None]] = {}
        dice = random.Random(7).random
        settings = Settings(cache_dir=str(folder))
        self.controls = [
            Control(settings, "127.0.0.1", partial(self._open, number), dice, lambda: self.now) for number in range(count)
        ]
        for control in self.controls:
            control._events.put(Wanted("reviews:9080", Future()))
            self._work(control)

    def _open(
        self,
        number: int,
        settings: Settings,
        announcement: Announcement,
        on_response: Callable[[bytes], None],
        on_end: Callable[[ControlPlaneError], None],
    ) -> Link:
        if self.away[0] <= self.now < self.away[1]:
            on_end(ControlPlaneError("connection refused"))
        else:
            self.arrivals.append(self.now)
            self._ends[number] = on_end
            on_response(b"")
        return Link()

    def _work(self, control: Control) -> None:
        control._handle(None)
        while True:
            try:
                control._handle(control._events.get_nowait())
            except queue.Empty:
                return

    def lose_for(self, seconds: float) -> list[float]:
        """All streams break at once. When each client is back, in seconds after the control plane's return."""
        back = self.now + seconds
        self.away, self.arrivals = (self.now, back), []
        for number, control in enumerate(self.controls):
            self._ends[number](ControlPlaneError("stream broke"))
            self._work(control)
        due = [(self._due(control), number) for number, control in enumerate(self.controls)]
        heapq.heapify(due)
        while due and len(self.arrivals) < len(self.controls):
            self.now, number = heapq.heappop(due)
            control = self.controls[number]
            self._work(control)
            if control._timers.wait() is not None:
                heapq.heappush(due, (self._due(control), number))
        return [at - back for at in self.arrivals]

    def _due(self, control: Control) -> float:
        wait = control._timers.wait()
        assert wait is not None
        return self.now + wait


def densest(arrivals: list[float], window: float = 0.1) -> int:
    """The most arrivals in any window of so many seconds."""
    return max(bisect_left(arrivals, at + window) - number for number, at in enumerate(arrivals))


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    return Clients(tmp_path_factory.mktemp("cache"), CLIENTS)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """1,000 clients tell of each outage."""
    caplog.set_level(logging.CRITICAL, "meshlib")


@pytest.mark.parametrize(
    ("outage", "most"),
    [
        (0.0, 170),
        (0.1, 170),
        (0.5, 190),
        (1.0, 190),
        (2.0, 110),
        (5.0, 80),
        (10.0, 70),
        (60.0, 70),
    ],
)
def test_clients_come_back_without_a_burst(clients: Clients, outage: float, most: int) -> None:
    """However long it was away, at most 19 of 100 in any 100 ms; after long outages 7. All before losses count."""
    arrivals = clients.lose_for(outage)
    assert len(arrivals) == CLIENTS
    assert densest(arrivals) <= most
    assert arrivals[-1] <= LONGEST_RETRY < GRACE
    assert all(control.state is State.LIVE for control in clients.controls)


def test_a_try_that_succeeds_starts_the_waits_anew(clients: Clients) -> None:
    """Who was away for a minute is as quick as anybody after the next blink."""
    clients.lose_for(60.0)
    assert max(clients.lose_for(0.0)) <= 1.0
