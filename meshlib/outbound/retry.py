"""Whether a try that ended is followed by another one, and after which wait (Envoy's retry conditions).

Rule 1: only what `retry_on` covers is tried again. A try's timeout counts as a reset (Envoy resets the stream itself).
Rule 2: an answer with `x-envoy-ratelimited` is tried again for `envoy-ratelimited` only.
Rule 3: gRPC's conditions look at `grpc-status` in the response's headers, not in its trailers.
Rule 4: a request whose body is gone is not tried again.
Rule 5: what a circuit breaker refused is not tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

from meshlib.config.model import RetryPolicy
from meshlib.facts import Failure, FailureKind, Response
from meshlib.match import header_matches
from meshlib.outbound.route import Dice

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

_GATEWAY_ERRORS = frozenset({502, 503, 504})

_ANSWERS: tuple[tuple[str, Callable[[RetryPolicy, Response], bool]], ...] = (
    ("5xx", lambda policy, response: 500 <= response.status < 600),
    ("gateway-error", lambda policy, response: response.status in _GATEWAY_ERRORS),
    ("retriable-4xx", lambda policy, response: response.status == 409),
    ("retriable-status-codes", lambda policy, response: response.status in policy.status_codes),
    ("retriable-headers", lambda policy, response: any(header_matches(one, response) for one in policy.retriable_headers)),
)

_GRPC_WORDS = {"1": "cancelled", "4": "deadline-exceeded", "8": "resource-exhausted", "13": "internal", "14": "unavailable"}

_ANY_RESET: tuple[str, ...] = ("5xx", "gateway-error", "reset")


class Retry(NamedTuple):
    """Try again after `wait` seconds, because of the condition `why`."""

    wait: float
    why: str


@dataclass(frozen=True, slots=True)
class Final:
    """No further try. `exhausted`: the outcome deserved one, but all were used up (Envoy's flag URX)."""

    why: str
    exhausted: bool = False


_NOT_ASKED = Final("no retry policy")
_NOT_COVERED = Final("not a condition of the retry policy")
_BODY_GONE = Final("the request's body cannot be sent again")


def decide(
    policy: RetryPolicy | None, attempt: int, outcome: Response | Failure, dice: Dice, *, replayable: bool = True
) -> Retry | Final:
    """What follows a try.

    Args:
        attempt: number of the try that ended, from 1.
        replayable: whether the body is at hand again after an answer; a `Failure` knows better and says so itself.
    """
    if policy is None:
        return _NOT_ASKED
    why = covered_by(policy, outcome)
    if not why:
        return _NOT_COVERED
    if not (outcome.replayable if isinstance(outcome, Failure) else replayable):
        return _BODY_GONE
    schedule, call = _schedule(policy), cast("RetryCallState", _Call(attempt))
    if schedule.stop(call):
        return Final(why, exhausted=True)
    return Retry(schedule.ceiling(call) * dice(), why)


def covered_by(policy: RetryPolicy, outcome: Response | Failure) -> str:
    """The word of `retry_on` that asks for another try after this outcome; empty: none does."""
    if isinstance(outcome, Failure):
        return next((word for word in _failure_words(outcome) if word in policy.retry_on), "")
    why = _answer_word(policy, outcome)
    if why or "envoy-ratelimited" in policy.retry_on:
        limited = outcome.header("x-envoy-ratelimited") is not None
        return ("envoy-ratelimited" if "envoy-ratelimited" in policy.retry_on else "") if limited else why
    return why


def _answer_word(policy: RetryPolicy, response: Response) -> str:
    asked = policy.retry_on
    for word, holds in _ANSWERS:
        if word in asked and holds(policy, response):
            return word
    word = _GRPC_WORDS.get(response.header("grpc-status") or "", "")
    return word if word in asked else ""


def _failure_words(failure: Failure) -> tuple[str, ...]:
    if failure.kind is FailureKind.OVERFLOW:
        return ()
    if failure.kind is FailureKind.CONNECT:
        return ("connect-failure", "reset-before-request", *_ANY_RESET)
    return _ANY_RESET if failure.sent else ("reset-before-request", *_ANY_RESET)


class _Call(NamedTuple):
    """What tenacity's strategies read of their call state."""

    attempt_number: int


class _Schedule(NamedTuple):
    stop: stop_base
    ceiling: wait_base


@lru_cache(maxsize=256)
def _schedule(policy: RetryPolicy) -> _Schedule:
    """When a policy stops, and the most it waits: base * 2^(n-1), at most the cap, of which the dice take a share.

    Envoy's documentation says (2^n - 1) * base; its code (JitteredExponentialBackOffStrategy) doubles, and the code counts.
    """
    # Imported here: it costs 40 ms, which a process without a failure need not pay.
    from tenacity.stop import stop_after_attempt
    from tenacity.wait import wait_exponential

    ceiling = wait_exponential(multiplier=policy.backoff_base, max=policy.backoff_max)
    return _Schedule(stop_after_attempt(policy.retries + 1), ceiling)
