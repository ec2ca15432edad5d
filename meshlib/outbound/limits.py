"""The most that may be under way to a cluster (Envoy's circuit breakers), and what is.

Rule 1: what is beyond a limit is refused at once, and never tried again.
Rule 2: over HTTP/1.1 a request is pending while it waits for a connection that others use, or, where connections have no limit
of their own, while one is made for it; then it is under way, until its response ends. Envoy counts the making in any case. In
a process that would refuse most of what it could do: a caller is back before a handshake is over.
Over HTTP/2 it shares a connection and is never pending.
Rule 3: a retry counts from its decision until the next one.
Rule 4: a retry budget replaces the limit on retries: a share of what is under way and pending, and always a few.

Threads share the counts and take no lock: what enters looks at the count afterwards, so that no limit is ever passed.
"""

from __future__ import annotations

from meshlib.config.protection import UNLIMITED, CircuitBreakers


class Meter:
    """How many of a kind are under way. A list and not a number: append, pop and len are atomic, `+=` is not.

    Attributes:
        overflows: how often one was refused.
    """

    __slots__ = ("_held", "overflows")

    def __init__(self) -> None:
        self._held: list[None] = []
        self.overflows = 0

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<Meter {len(self._held)}, {self.overflows} refused>"

    def enter(self, most: float) -> bool:
        """One more, unless there are `most` already."""
        self._held.append(None)
        if len(self._held) <= most:
            return True
        self._held.pop()
        self.overflows += 1
        return False

    def add(self) -> None:
        """One more, whatever the limit."""
        self._held.append(None)

    def leave(self) -> None:
        """One less."""
        self._held.pop()


class Breaker:
    """One cluster's limits and counts; kept over updates of its configuration."""

    __slots__ = ("connections", "limits", "pending", "requests", "retries")

    def __init__(self, limits: CircuitBreakers) -> None:
        self.limits = limits
        self.connections = Meter()
        self.pending = Meter()
        self.requests = Meter()
        self.retries = Meter()

    def __repr__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("connections", "pending", "requests", "retries")}
        return f"<Breaker {counts}>"

    def connect(self, *, first: bool) -> bool:
        """Whether one more connection may be made; it counts until `connections.leave`.

        Args:
            first: its endpoint has none: it may always have one (Envoy).
        """
        if self.connections.enter(self.limits.max_connections):
            return True
        if first:
            self.connections.add()
        return first

    @property
    def pends_while_connecting(self) -> bool:
        """Whether a request counts as pending while its connection is made."""
        return self.limits.max_connections == UNLIMITED

    def pend(self) -> bool:
        """Whether a request may wait for a connection; it counts until `pending.leave`."""
        return self.pending.enter(self.limits.max_pending_requests)

    def begin(self) -> bool:
        """Whether a request may go on its connection; it counts until `requests.leave`."""
        return self.requests.enter(self.limits.max_requests)

    def retry(self) -> bool:
        """Whether there may be one more try; it counts until `retries.leave`."""
        budget = self.limits.retry_budget
        if budget is None:
            return self.retries.enter(self.limits.max_retries)
        share = budget.percent / 100 * (len(self.requests) + len(self.pending))
        return self.retries.enter(max(share, budget.min_concurrency))
