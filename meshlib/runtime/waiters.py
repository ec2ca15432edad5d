"""Callers that wait for a destination."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from meshlib.runtime.events import Found


class Waiters:
    """Futures by the name of what they wait for. For one thread; whoever waits may cancel from any other."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Future[Found]]] = {}

    def add(self, name: str, waiter: Future[Found]) -> None:
        """Somebody waits."""
        self._waiting.setdefault(name, []).append(waiter)

    def answer(self, known: Callable[[str], Found | None]) -> None:
        """Tell all whose answer is known.

        Args:
            known: the answer for a name; None: not yet.
        """
        for name in list(self._waiting):
            self.answer_one(name, known(name))

    def answer_one(self, name: str, found: Found | None) -> None:
        """Tell those who wait for this name; None: nothing to tell yet."""
        if found is None:
            return
        for waiter in self._waiting.pop(name, ()):
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(found)
