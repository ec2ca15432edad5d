"""Waiting for what other threads and processes do: as long as it takes, up to a limit, and no longer than needed."""

from __future__ import annotations

import time
from collections.abc import Callable


def becomes(fact: Callable[[], object], limit: float = 8.0) -> bool:
    """Whether a fact holds within `limit` seconds."""
    give_up = time.monotonic() + limit
    while not fact():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def eventually(fact: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Waits until a fact holds. Raises AssertionError with `what` after `limit` seconds."""
    assert becomes(fact, limit), f"not within {limit} s: {what}"
