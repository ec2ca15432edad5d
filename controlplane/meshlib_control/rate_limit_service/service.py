"""`ShouldRateLimit`: a request's descriptors are counted, each in its window, and judged.

Rule 1: every descriptor with a limit is counted, also if another one is over: as the reference does.
Rule 2: a store that cannot be asked gives what `on_failure` says. An error leaves it to who asks (failure_mode_deny).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from meshlib.config.messages import message
from meshlib.config.rate_limit import Entries
from meshlib_control.rate_limit_service.limits import SECONDS, Limit, Limits
from meshlib_control.rate_limit_service.store import Hit, Store, StoreFailure

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
_log = logging.getLogger(__name__)


class OnFailure(StrEnum):
    """What a request gets while the store cannot be asked."""

    ERROR = "error"
    ALLOW = "allow"
    DENY = "deny"


class BadRequest(Exception):
    """The request makes no sense; the text says why."""


class Unavailable(Exception):
    """The store cannot be asked, and who asks shall decide."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A descriptor of a request.

    Args:
        hits: how much the request counts, at least 1.
        limit: None: it has none.
    """

    entries: Entries
    hits: int
    limit: Limit | None

    @property
    def limited(self) -> bool:
        """Whether it has to be counted."""
        return self.limit is not None and self.limit.requests is not None


class RateLimitService:
    """Judges requests.

    Args:
        limits: in force; may be replaced at any time.
        clock: seconds since the epoch.
    """

    def __init__(
        self, limits: Limits, store: Store, on_failure: OnFailure = OnFailure.ERROR, clock: Callable[[], float] = time.time
    ) -> None:
        self.limits = limits
        self._store = store
        self._on_failure = on_failure
        self._clock = clock

    async def judge(self, request: Any) -> Any:
        """A RateLimitResponse for a RateLimitRequest. Raises BadRequest or Unavailable."""
        if not request.domain:
            raise BadRequest("rate limit domain must not be empty")
        if not request.descriptors:
            raise BadRequest("rate limit descriptor list must not be empty")
        now = self._clock()
        counted = [self._counted(request, descriptor) for descriptor in request.descriptors]
        counts = iter(await self._counts(request.domain, [one for one in counted if one.limited], now))
        statuses = [_status(one, next(counts) if one.limited else 0, now) for one in counted]
        over = any(status["code"] == "OVER_LIMIT" for status in statuses)
        return message("envoy.service.ratelimit.v3.RateLimitResponse")(
            overall_code="OVER_LIMIT" if over else "OK", statuses=statuses
        )

    def _counted(self, request: Any, descriptor: Any) -> Counted:
        entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
        own = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else request.hits_addend
        limit = _override(descriptor) if descriptor.HasField("limit") else self.limits.find(request.domain, entries)
        return Counted(entries, max(1, own), limit)

    async def _counts(self, domain: str, counted: Sequence[Counted], now: float) -> list[int]:
        if not counted:
            return []
        try:
            return await self._store.add([_hit(domain, one, now) for one in counted], now)
        except StoreFailure as error:
            _log.warning("cannot count: %s (%s)", error, self._on_failure.value)
            if self._on_failure is OnFailure.ERROR:
                raise Unavailable(str(error)) from error
            return [0 if self._on_failure is OnFailure.ALLOW else 2**32 for _ in counted]


def _override(descriptor: Any) -> Limit | None:
    """The limit that a descriptor brings along, if its unit is known."""
    unit = descriptor.limit.DESCRIPTOR.fields_by_name["unit"].enum_type.values_by_number.get(descriptor.limit.unit)
    name = unit.name.lower() if unit is not None else ""
    return Limit(descriptor.limit.requests_per_unit, name) if name in SECONDS else None


def _hit(domain: str, counted: Counted, now: float) -> Hit:
    assert counted.limit is not None
    window = counted.limit.window
    begins = int(now) // window * window
    # Lengths before texts: a value that holds separators cannot be taken for another descriptor.
    words = [word for entry in counted.entries for word in entry]
    text = "".join(f"{len(word)}:{word}," for word in (domain, *words))
    return Hit(f"meshlib:ratelimit:{text}{counted.limit.unit}:{begins}", begins + window, counted.hits)


def _status(counted: Counted, count: int, now: float) -> dict[str, Any]:
    limit = counted.limit
    if limit is None or limit.requests is None:
        return {"code": "OK", "limit_remaining": 2**32 - 1 if limit is not None else 0}
    over = count > limit.requests and not limit.shadow
    return {
        "code": "OVER_LIMIT" if over else "OK",
        "current_limit": {"requests_per_unit": limit.requests, "unit": limit.unit.upper(), "name": limit.name},
        "limit_remaining": max(0, limit.requests - count),
        "duration_until_reset": {"seconds": limit.window - int(now) % limit.window},
    }
