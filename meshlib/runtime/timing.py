"""How long to wait: the caller's limits and the route's, of which the earlier counts.

Moments are values of the monotonic clock, durations are seconds, None is for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Operation = Literal["connect", "read", "write", "pool"]


@dataclass(frozen=True, slots=True)
class Timeout:
    """The limits of the caller's library; seconds, None: none.

    Args:
        connect: for each connection that is made.
        read: for each wait for bytes of the response; that for its head covers all tries and the pauses between them,
            because behind a proxy the caller could not tell them apart either.
        write: for each wait until the peer takes more of the request.
        pool: for the wait for a connection, where a circuit breaker limits them.
    """

    connect: float | None = None
    read: float | None = None
    write: float | None = None
    pool: float | None = None


NO_TIMEOUT = Timeout()


class CallerTimeout(TimeoutError):
    """The caller's own limit passed: no reason for another try, the caller has given up."""

    def __init__(self, operation: Operation, seconds: float) -> None:
        super().__init__(f"the caller's {operation} timeout of {seconds:g} s passed")
        self.operation: Operation = operation


class TryTimeout(TimeoutError):
    """The time that the route gives to a try passed."""


class TurnTimeout(TryTimeout):
    """It passed while all connections that a circuit breaker allows were in use."""


class Limit(NamedTuple):
    """When to stop waiting, and whose word it is.

    Args:
        at: the moment; None: never.
        operation: what the caller's own limit is for; None: the limit is the route's.
        seconds: the caller's limit.
    """

    at: float | None
    operation: Operation | None = None
    seconds: float = 0.0

    def error(self) -> TimeoutError:
        """What to raise when the moment has come."""
        if self.operation is None:
            return TryTimeout("the route's timeout passed")
        return CallerTimeout(self.operation, self.seconds)

    def turn_error(self) -> TimeoutError:
        """The same for who waited for a connection."""
        return TurnTimeout("all connections were in use") if self.operation is None else self.error()


class Patience:
    """How long the caller waits without a sign of progress.

    Args:
        timeout: the caller's limits.
        now: when the wait begins.
    """

    __slots__ = ("_since", "_timeout")

    def __init__(self, timeout: Timeout, now: float) -> None:
        self._timeout = timeout
        self._since = now

    def restart(self, now: float) -> None:
        """There was progress: the wait begins anew."""
        self._since = now

    def extend(self, seconds: float) -> None:
        """Time that counts against another limit."""
        self._since += seconds

    def limit(self, operation: Operation, route: float | None) -> Limit:
        """The caller's moment or the route's, the earlier; the route's if equal, since it may allow another try."""
        seconds = self._timeout.write if operation == "write" else self._timeout.read
        if seconds is not None and (route is None or self._since + seconds < route):
            return Limit(self._since + seconds, operation, seconds)
        return Limit(route)


def earliest(*durations: float | None) -> float | None:
    """The shortest of several durations, None being for ever."""
    return min((duration for duration in durations if duration is not None), default=None)


def remaining(at: float | None, now: float) -> float | None:
    """Seconds until a moment, never below zero; None: for ever."""
    return None if at is None else max(0.0, at - now)
