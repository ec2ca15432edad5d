"""Token buckets: a frozen clock says when."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from meshlib.config.rate_limit import Entries, LocalRateLimit, Named, TokenBucket
from meshlib.inbound.buckets import Bucket, Buckets, Level

FOUR_A_MINUTE = TokenBucket(4, 4, 60.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buckets(clock: Clock) -> Buckets:
    return Buckets(clock, nullcontext())


def drawn(buckets: Buckets, limit: LocalRateLimit, *descriptors: Entries, times: int = 1) -> list[bool]:
    return [buckets.draw(limit, descriptors).allowed for _ in range(times)]


def test_tokens_come_back_evenly() -> None:
    """Envoy 1.40: four a minute are one in fifteen seconds, and never more than the bucket holds."""
    bucket = Bucket(FOUR_A_MINUTE, 0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(14.9), bucket.take(15.0), bucket.take(15.1)] == [False, True, False]
    assert [bucket.take(1e6) for _ in range(5)] == [True] * 4 + [False]


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    """Tokens come with time only."""
    bucket = Bucket(TokenBucket(1, 1, 1.0), 10.0)
    assert [bucket.take(10.0), bucket.take(10.0), bucket.take(5.0)] == [True, False, False]


def test_the_level_tells_what_is_left_and_when_the_next_comes(buckets: Buckets) -> None:
    """Whole tokens and whole seconds."""
    limit = LocalRateLimit("l", FOUR_A_MINUTE)
    levels = [buckets.draw(limit, ()).level for _ in range(5)]
    assert levels == [Level(4, 3, 0), Level(4, 2, 0), Level(4, 1, 0), Level(4, 0, 15), Level(4, 0, 15)]


def test_the_slowest_bucket_is_asked_first_and_the_others_keep_their_tokens(buckets: Buckets) -> None:
    """Whoever is refused by the strictest takes nothing from the rest."""
    slow, fast = Named((("a", "1"),), TokenBucket(1, 1, 600.0)), Named((("b", "1"),), TokenBucket(2, 2, 1.0))
    limit = LocalRateLimit("l", TokenBucket(10, 1, 600.0), (fast, slow))
    both: tuple[Entries, ...] = ((("b", "1"),), (("a", "1"),))
    assert drawn(buckets, limit, *both, times=3) == [True, False, False]
    assert drawn(buckets, limit, (("b", "1"),), times=2) == [True, False]
    assert buckets.draw(limit, ()).level == Level(10, 7, 0)


def test_the_default_bucket_counts_what_nobody_else_does(buckets: Buckets) -> None:
    """Unless it counts everything."""
    one = Named((("a", "1"),), TokenBucket(5, 1, 600.0))
    for always, left in ((False, 9), (True, 8)):
        limit = LocalRateLimit(f"l-{always}", TokenBucket(10, 1, 600.0), (one,), always_default=always)
        drawn(buckets, limit, (("a", "1"),))
        assert buckets.draw(limit, ()).level == Level(10, left, 0)
    assert buckets.draw(LocalRateLimit("none", None, (one,)), ()).level is None


def test_values_left_open_are_kept_apart_and_the_oldest_is_forgotten(buckets: Buckets) -> None:
    """Two values have a bucket each; a third one takes the place of the one not seen for longest."""
    limit = LocalRateLimit("l", None, (Named((("user", ""),), TokenBucket(1, 1, 600.0)),), most_values=2)
    users: dict[str, Entries] = {name: (("user", name),) for name in "abc"}
    assert [drawn(buckets, limit, users[name])[0] for name in "abab"] == [True, True, False, False]
    assert [drawn(buckets, limit, users[name])[0] for name in "cba"] == [True, False, True]


def test_an_update_keeps_equal_buckets_and_forgets_the_others(buckets: Buckets) -> None:
    """What is counted belongs to the filter's name and to the bucket's numbers."""
    limit = LocalRateLimit("l", FOUR_A_MINUTE)
    drawn(buckets, limit, times=4)
    buckets.keep([LocalRateLimit("l", FOUR_A_MINUTE, status=503)])
    assert drawn(buckets, limit) == [False]
    buckets.keep([LocalRateLimit("l", TokenBucket(4, 4, 61.0))])
    assert drawn(buckets, limit) == [True]


def test_threads_together_take_no_token_twice() -> None:
    """Eight threads, 4,000 tries, 1,000 tokens."""
    buckets = Buckets(lambda: 0.0, threading.Lock())
    limit = LocalRateLimit("l", TokenBucket(1000, 1, 600.0))
    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(lambda _: buckets.draw(limit, ()).allowed, range(4000)))
    assert allowed == 1000
