from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import HeaderMatch
from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.retry import Final, Retry, covered_by, decide
from tests.support.destinations import PRESENT, Dice, retries

CONNECT = Failure(FailureKind.CONNECT, "connection refused", sent=False)
RESET = Failure(FailureKind.RESET, "reset by peer")
UNSENT = Failure(FailureKind.RESET, "closed before the request", sent=False)
TIMEOUT = Failure(FailureKind.TIMEOUT, "per-try timeout")


@pytest.mark.parametrize(
    ("word", "yes", "no"),
    [
        ("5xx", [500, 503, 599, RESET, CONNECT, TIMEOUT], [200, 404, 499]),
        ("gateway-error", [502, 503, 504, RESET, TIMEOUT], [500, 501, 505]),
        ("reset", [RESET, CONNECT, TIMEOUT, UNSENT], [503]),
        ("reset-before-request", [UNSENT, CONNECT], [RESET, TIMEOUT, 503]),
        ("connect-failure", [CONNECT], [RESET, UNSENT, TIMEOUT, 503]),
        ("retriable-4xx", [409], [400, 404, 429, 503]),
        ("refused-stream", [], [RESET, CONNECT, 503]),
        ("retriable-status-codes", [], [200, 503, RESET]),
    ],
)
def test_conditions(word: str, yes: list[int | Failure], no: list[int | Failure]) -> None:
    """Envoy's table: what each word of retry_on covers, and what it does not."""
    for outcome in yes:
        assert covered_by(retries(word), Response(outcome) if isinstance(outcome, int) else outcome) == word, outcome
    for outcome in no:
        assert covered_by(retries(word), Response(outcome) if isinstance(outcome, int) else outcome) == "", outcome


def test_istios_default_does_not_cover_503() -> None:
    """The default list names retriable-status-codes without any code: an ordinary 503 is delivered."""
    assert covered_by(retries(), Response(503)) == ""
    assert covered_by(retries(), CONNECT) == "connect-failure"
    assert covered_by(replace(retries(), status_codes=frozenset({503})), Response(503)) == "retriable-status-codes"


@pytest.mark.parametrize(
    ("word", "status"),
    [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)],
)
def test_grpc_conditions(word: str, status: int) -> None:
    """gRPC's words look at grpc-status in the headers of the response."""
    assert covered_by(retries(word), Response(200, (("grpc-status", str(status)),))) == word
    assert covered_by(retries(word), Response(200, (("grpc-status", "0"),))) == ""
    assert covered_by(retries(word), Response(200)) == ""


def test_rate_limited_answers_need_their_own_word() -> None:
    """A response with x-envoy-ratelimited is retried for envoy-ratelimited and for nothing else."""
    limited = Response(503, (("x-envoy-ratelimited", "true"),))
    assert covered_by(retries("5xx"), limited) == ""
    assert covered_by(retries("5xx", "envoy-ratelimited"), limited) == "envoy-ratelimited"
    assert covered_by(retries("envoy-ratelimited"), Response(503)) == ""


def test_retriable_headers() -> None:
    """A response header that is named is enough."""
    policy = retries("retriable-headers", retriable_headers=(HeaderMatch("x-again", PRESENT),))
    assert covered_by(policy, Response(200, (("x-again", "1"),))) == "retriable-headers"
    assert covered_by(policy, Response(503)) == ""


def test_without_policy_the_first_try_is_the_last() -> None:
    """No policy: final, and not exhausted."""
    assert decide(None, 1, CONNECT, Dice(0.0)) == Final("no retry policy")


def test_a_body_that_is_gone_is_not_sent_again() -> None:
    """A failure says itself whether the body can be replayed; for an answer the caller knows."""
    assert isinstance(decide(retries("5xx"), 1, replace(RESET, replayable=False), Dice(0.0)), Final)
    assert isinstance(decide(retries("5xx"), 1, RESET, Dice(0.0), replayable=False), Retry)
    assert isinstance(decide(retries("5xx"), 1, Response(503), Dice(0.0), replayable=False), Final)


def test_retries_come_on_top_of_the_first_try() -> None:
    """With 2 retries the third try's outcome is final, and marked as exhausted."""
    verdicts = [decide(retries("5xx", count=2), attempt, Response(503), Dice(0.0)) for attempt in (1, 2, 3)]
    assert [isinstance(verdict, Retry) for verdict in verdicts] == [True, True, False]
    assert verdicts[2] == Final("5xx", exhausted=True)


def test_the_back_off_doubles_up_to_the_cap() -> None:
    """Ceilings with Istio's figures: 25, 50, 100, 200, then 250 ms; the dice take a share of it."""
    waits = [decide(retries("5xx", count=9), attempt, Response(503), Dice(0.5)) for attempt in range(1, 7)]
    assert [wait.wait for wait in waits if isinstance(wait, Retry)] == [0.0125, 0.025, 0.05, 0.1, 0.125, 0.125]


@given(
    attempt=st.integers(1, 60),
    shown=st.floats(0, 1, exclude_max=True),
    base=st.floats(0.001, 10),
    factor=st.floats(1, 100),
)
def test_waits_stay_in_their_bounds(attempt: int, shown: float, base: float, factor: float) -> None:
    """A wait is between zero and the cap, and never above (2^n - 1) times the base."""
    policy = retries("5xx", count=60, backoff_base=base, backoff_max=base * factor)
    verdict = decide(policy, attempt, Response(503), Dice(shown))
    assert isinstance(verdict, Retry)
    assert 0 <= verdict.wait <= min(policy.backoff_max, (2**attempt - 1) * base)
