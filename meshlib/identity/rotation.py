"""When a certificate is replaced, and what is wrong with one that cannot be used now. Times are seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum

JITTER = 0.1
"""Share of a lifetime by which renewals spread, so that a mesh started at once does not renew at once."""


class Validity(Enum):
    """Whether a certificate may be used."""

    VALID = "valid"
    NOT_YET = "not yet valid"
    EXPIRED = "expired"


def renew_at(not_before: float, not_after: float, jitter: float = 0.0) -> float:
    """The time to ask for the next certificate: half of the lifetime, as Istio does (SECRET_GRACE_PERIOD_RATIO 0.5).

    Args:
        jitter: -1.0 to 1.0: moves the time by up to a tenth of the lifetime to either side.
    """
    lifetime = not_after - not_before
    return not_before + lifetime * (0.5 + JITTER * jitter)


def judge(now: float, not_before: float, not_after: float) -> Validity:
    """Whether a certificate may be used now. Both ends belong to its life (RFC 5280 4.1.2.5)."""
    if now < not_before:
        return Validity.NOT_YET
    return Validity.EXPIRED if now > not_after else Validity.VALID


def explain(now: float, not_before: float, not_after: float) -> str:
    """For people: why a certificate cannot be used now, with both times; empty if it can."""
    validity = judge(now, not_before, not_after)
    if validity is Validity.NOT_YET:
        early = span(not_before - now)
        return f"it is not yet valid: it begins at {_time(not_before)}, but the clock here says {_time(now)}, {early} earlier"
    if validity is Validity.EXPIRED:
        late = span(now - not_after)
        return f"it has expired: it ended at {_time(not_after)}, and the clock here says {_time(now)}, {late} later"
    return ""


def span(seconds: float) -> str:
    """A length of time for people: `3 s`, `5 min`, `1 h 2 min`, `2 d 3 h`."""
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole} s"
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
