"""Token buckets of this process, by what they count. Envoy 1.40: AtomicTokenBucketImpl, LocalRateLimiterImpl.

Rule 1: a bucket lives as long as some configuration has an equal one at the same place: an update does not fill it.
Rule 2: each worker process has buckets of its own, as each Envoy has.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from meshlib.config.rate_limit import Entries, LocalRateLimit, Named, TokenBucket


class Bucket:
    """Tokens at a moment; they come back evenly. Times are seconds of one monotonic clock.

    Args:
        now: when it is full.
    """

    __slots__ = ("_then", "_tokens", "limit")

    def __init__(self, limit: TokenBucket, now: float) -> None:
        self.limit = limit
        self._tokens = float(limit.max_tokens)
        self._then = now

    def take(self, now: float, tokens: int = 1) -> bool:
        """Take tokens if they are all there."""
        held = self.held(now)
        if held < tokens:
            return False
        self._tokens, self._then = held - tokens, now
        return True

    def held(self, now: float) -> float:
        """Tokens in it, with the part of one that is on its way."""
        return min(float(self.limit.max_tokens), self._tokens + max(0.0, now - self._then) * self.limit.rate)

    def wait(self, now: float) -> float:
        """Seconds until there is a whole token."""
        return max(0.0, 1.0 - self.held(now)) / self.limit.rate


@dataclass(frozen=True, slots=True)
class Level:
    """How full the deciding bucket is after a request: what `x-ratelimit-*` tell. `reset` is in whole seconds."""

    limit: int
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """The outcome for one request. `level` None: no bucket counted it."""

    allowed: bool
    level: Level | None = None


Key = tuple[str, Entries | None, TokenBucket]


class Buckets:
    """All buckets of a process.

    Args:
        clock: seconds, monotonic.
        lock: held while buckets are looked at and changed.
    """

    def __init__(self, clock: Callable[[], float], lock: AbstractContextManager[object]) -> None:
        self._clock = clock
        self._lock = lock
        self._fixed: dict[Key, Bucket] = {}
        self._by_value: dict[Key, OrderedDict[Entries, Bucket]] = {}

    def draw(self, limit: LocalRateLimit, descriptors: Sequence[Entries]) -> Drawn:
        """Take a token from each bucket that counts a request; from none that comes after an empty one.

        Envoy: buckets of descriptors first, the slowest before the others, then the default one. What is taken stays taken.
        """
        now = self._clock()
        with self._lock:
            matched = list(self._matched(limit, descriptors, now))
            slowest = sorted(matched, key=lambda bucket: bucket.limit.rate)
            default = self._default(limit, now) if limit.always_default or not matched else None
            for bucket in (*slowest, *([default] if default else ())):
                if not bucket.take(now):
                    return Drawn(False, _level(bucket, now))
            shown = slowest[0] if slowest else default
            return Drawn(True, _level(shown, now) if shown else None)

    def keep(self, limits: Iterable[LocalRateLimit]) -> None:
        """Forget the buckets that no configuration has any more."""
        keys = {key for limit in limits for key in _keys(limit)}
        with self._lock:
            self._fixed = {key: bucket for key, bucket in self._fixed.items() if key in keys}
            self._by_value = {key: buckets for key, buckets in self._by_value.items() if key in keys}

    def _default(self, limit: LocalRateLimit, now: float) -> Bucket | None:
        return self._one((limit.name, None, limit.bucket), now) if limit.bucket is not None else None

    def _matched(self, limit: LocalRateLimit, descriptors: Sequence[Entries], now: float) -> Iterator[Bucket]:
        for entries in descriptors:
            named = _find(limit.named, entries)
            if named is None:
                continue
            key = (limit.name, named.entries, named.bucket)
            if _is_fixed(named.entries):
                yield self._one(key, now)
            else:
                yield self._one_of_values(key, entries, limit.most_values, now)

    def _one(self, key: Key, now: float) -> Bucket:
        bucket = self._fixed.get(key)
        if bucket is None:
            bucket = self._fixed[key] = Bucket(key[2], now)
        return bucket

    def _one_of_values(self, key: Key, entries: Entries, most: int, now: float) -> Bucket:
        buckets = self._by_value.setdefault(key, OrderedDict())
        bucket = buckets.get(entries)
        if bucket is None:
            bucket = buckets[entries] = Bucket(key[2], now)
            while len(buckets) > most:
                buckets.popitem(last=False)
        buckets.move_to_end(entries)
        return bucket


def _find(named: Sequence[Named], entries: Entries) -> Named | None:
    """The descriptor that is written exactly so; else the first whose empty values leave room for it (Envoy)."""
    for one in named:
        if one.entries == entries and _is_fixed(entries):
            return one
    return next((one for one in named if _fits(one.entries, entries)), None)


def _is_fixed(entries: Entries) -> bool:
    return all(value for _, value in entries)


def _fits(pattern: Entries, entries: Entries) -> bool:
    return len(pattern) == len(entries) and all(
        wanted == key and text in ("", value) for (wanted, text), (key, value) in zip(pattern, entries, strict=True)
    )


def _keys(limit: LocalRateLimit) -> Iterator[Key]:
    if limit.bucket is not None:
        yield limit.name, None, limit.bucket
    yield from ((limit.name, one.entries, one.bucket) for one in limit.named)


def _level(bucket: Bucket, now: float) -> Level:
    # Envoy rounds the wait up to milliseconds and then down to seconds.
    return Level(bucket.limit.max_tokens, int(bucket.held(now)), math.ceil(bucket.wait(now) * 1000) // 1000)
