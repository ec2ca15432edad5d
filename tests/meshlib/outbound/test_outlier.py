from __future__ import annotations

from dataclasses import replace

import pytest

from meshlib.config.protection import OutlierDetection
from meshlib.outbound.outlier import Key, Outliers

A, B, C = ("127.0.0.1", 1), ("127.0.0.1", 2), ("127.0.0.1", 3)
ALL = OutlierDetection(max_ejection_percent=100)


def watching(config: OutlierDetection, *keys: Key) -> Outliers:
    found = Outliers(config)
    found.update(config, keys or (A, B, C))
    found.sweep(0.0)
    return found


def answers(outliers: Outliers, key: Key, *statuses: int, now: float = 0.0) -> frozenset[Key]:
    for status in statuses:
        outliers.answered(key, status, now)
    return outliers.ejected


def test_errors_in_a_row() -> None:
    """Five, and an answer between begins anew."""
    outliers = watching(ALL)
    assert answers(outliers, A, 500, 500, 500, 500, 404, 500, 500, 500, 500) == frozenset()
    assert answers(outliers, A, 599) == {A}
    assert outliers.enforced == 1


def test_gateway_errors_count_for_themselves() -> None:
    """A 500 ends a row of 502, 503 and 504."""
    outliers = watching(replace(ALL, consecutive_5xx=0, consecutive_gateway_errors=2))
    assert answers(outliers, A, 503, 500, 504, 500, 500, 500, 500, 500) == frozenset()
    assert answers(outliers, A, 502, 504) == {A}


@pytest.mark.parametrize(("timed_out", "gateway"), [(True, True), (False, True)])
def test_what_goes_wrong_on_the_way_counts_as_an_answer(timed_out: bool, gateway: bool) -> None:
    """504 for a time-out, 503 for the rest: gateway errors both."""
    outliers = watching(replace(ALL, consecutive_5xx=0, consecutive_gateway_errors=1))
    outliers.failed(A, 0.0, connected=False, timed_out=timed_out)
    assert (outliers.ejected == {A}) is gateway


def test_split() -> None:
    """Failures have a count of their own, which a connection ends: time-outs of a connected endpoint never add up."""
    outliers = watching(replace(ALL, consecutive_5xx=1, split=True, consecutive_local_origin_failures=2))
    outliers.failed(A, 0.0, connected=False)
    outliers.failed(A, 0.0, connected=True, timed_out=True)
    outliers.failed(A, 0.0, connected=True, timed_out=True)
    assert outliers.ejected == frozenset()
    outliers.failed(A, 0.0, connected=False)
    assert outliers.ejected == {A}
    assert answers(outliers, B, 500) == {A, B}


def test_listed_codes_replace_5xx() -> None:
    """What is not listed is a success; gRPC's statuses are not listed, but judged as ever."""
    outliers = watching(replace(ALL, consecutive_5xx=2, error_codes=frozenset({429})))
    assert answers(outliers, A, 500, 500, 429, 503, 429) == frozenset()
    assert answers(outliers, A, 429) == {A}
    outliers.answered(B, 503, 0.0, grpc=True)
    outliers.answered(B, 503, 0.0, grpc=True)
    assert outliers.ejected == {A, B}


def test_ten_percent_of_nine_is_nobody() -> None:
    """Envoy: (ejected + 1) / all must stay within the share."""
    nine = [("127.0.0.1", port) for port in range(9)]
    outliers = watching(OutlierDetection(consecutive_5xx=1), *nine)
    assert answers(outliers, nine[0], 500) == frozenset()
    assert outliers.prevented == 1
    outliers.update(OutlierDetection(consecutive_5xx=1), [*nine, ("127.0.0.2", 1)])
    assert len(answers(outliers, nine[0], 500)) == 1
    assert len(answers(outliers, nine[1], 500)) == 1


def test_who_comes_back_when() -> None:
    """Looked at once per interval; the second time in a row lasts twice the base."""
    outliers = watching(replace(ALL, consecutive_5xx=1, interval=1.0, base_ejection_time=1.5))
    answers(outliers, A, 500, now=0.2)
    outliers.sweep(1.9)
    assert outliers.ejected == {A}
    outliers.sweep(2.0)
    assert outliers.ejected == frozenset()
    answers(outliers, A, 500, now=2.0)
    outliers.sweep(4.9)
    assert outliers.ejected == {A}
    outliers.sweep(5.0)
    assert outliers.ejected == frozenset()


def test_good_behaviour_is_remembered() -> None:
    """Each interval without an ejection takes one back."""
    outliers = watching(replace(ALL, consecutive_5xx=1, interval=1.0, base_ejection_time=1.0))
    for moment in (0.0, 1.0):
        answers(outliers, A, 500, now=moment)
        outliers.sweep(moment + 1.0 if not moment else 3.0)
    assert outliers.ejected == frozenset()
    outliers.sweep(1000.0)
    answers(outliers, A, 500, now=1000.0)
    outliers.sweep(1001.0)
    assert outliers.ejected == frozenset()


def test_no_ejection_lasts_longer_than_the_maximum() -> None:
    """However often it happened."""
    outliers = watching(replace(ALL, consecutive_5xx=1, interval=1.0, base_ejection_time=10.0, max_ejection_time=20.0))
    now = 0.0
    for _ in range(9):
        answers(outliers, A, 500, now=now)
        now += 20.0
        outliers.sweep(now)
        assert outliers.ejected == frozenset()


def test_a_long_silence_costs_nothing() -> None:
    """Missed intervals are made up for only while somebody is out."""
    outliers = watching(replace(ALL, consecutive_5xx=1, interval=0.001, base_ejection_time=0.01))
    answers(outliers, A, 500)
    outliers.sweep(1e9)
    assert outliers.ejected == frozenset()


def test_records_survive_updates() -> None:
    """Who stays keeps its record; who comes back begins anew."""
    outliers = watching(ALL)
    answers(outliers, A, 500, 500, 500, 500)
    outliers.update(ALL, [A, B])
    assert answers(outliers, A, 500) == {A}
    outliers.update(ALL, [B])
    assert outliers.ejected == frozenset()
    outliers.update(ALL, [A, B])
    assert outliers.ejected == frozenset()
    assert answers(outliers, C, 500, 500, 500, 500, 500) == frozenset()
