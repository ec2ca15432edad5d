"""What holds for one exchange: the route's timeout and retries, changed by the request's own `x-envoy-` headers.

Envoy's router reads these headers and keeps them from the upstream (docs: router filter, "HTTP headers (consumed from
downstreams)"). A value that is not a number is ignored, the header is still consumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from meshlib.config.model import HeaderMatch, MatchKind, RetryPolicy, Route, StringMatch
from meshlib.facts import Request

_TIMEOUT = "x-envoy-upstream-rq-timeout-ms"
_PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
_RETRY_ON = "x-envoy-retry-on"
_RETRY_GRPC_ON = "x-envoy-retry-grpc-on"
_MAX_RETRIES = "x-envoy-max-retries"
_STATUS_CODES = "x-envoy-retriable-status-codes"
_HEADER_NAMES = "x-envoy-retriable-header-names"

ATTEMPT_COUNT = "x-envoy-attempt-count"
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"

CONSUMED = frozenset(
    {_TIMEOUT, _PER_TRY_TIMEOUT, _RETRY_ON, _RETRY_GRPC_ON, _MAX_RETRIES, _STATUS_CODES, _HEADER_NAMES}
    | {"x-envoy-hedge-on-per-try-timeout", ATTEMPT_COUNT, EXPECTED_TIMEOUT}
)
"""Headers of the caller that never reach the upstream: orders to this hop, and two that every hop writes anew."""

HTTP_CONDITIONS = frozenset(
    {"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx"}
    | {"refused-stream", "retriable-status-codes", "retriable-headers"}
)
GRPC_CONDITIONS = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})

_UNASKED = RetryPolicy(frozenset(), retries=1, avoid_previous_hosts=False, host_selection_attempts=1)
"""What Envoy starts from when only the request asks for retries."""


class Terms(NamedTuple):
    """Limits of one exchange.

    Args:
        request: what to send: the caller's request without the consumed headers.
        timeout: seconds for all tries together; None: no limit.
        per_try: seconds for each try; None: only `timeout` counts.
        retry: None: one try.
    """

    request: Request
    timeout: float | None
    per_try: float | None
    retry: RetryPolicy | None


def terms_of(route: Route, request: Request) -> Terms:
    """The terms of a request on its route."""
    for name, _ in request.headers:
        if name in CONSUMED:
            return _overridden(route, request)
    retry = route.retry
    return Terms(request, route.timeout, _useful(retry.per_try_timeout if retry else None, route.timeout), retry)


def _overridden(route: Route, request: Request) -> Terms:
    orders = {name: value for name, value in request.headers if name in CONSUMED}
    rest = tuple(header for header in request.headers if header[0] not in CONSUMED)
    retry = _retry(route.retry, orders)
    timeout = _seconds(orders.get(_TIMEOUT), route.timeout)
    per_try = _seconds(orders.get(_PER_TRY_TIMEOUT), retry.per_try_timeout if retry else None)
    return Terms(replace(request, headers=rest), timeout, _useful(per_try, timeout), retry)


def _retry(policy: RetryPolicy | None, orders: Mapping[str, str]) -> RetryPolicy | None:
    asked = HTTP_CONDITIONS & _words(orders.get(_RETRY_ON)) | GRPC_CONDITIONS & _words(orders.get(_RETRY_GRPC_ON))
    if policy is None and not asked:
        return None
    base = policy or _UNASKED
    codes = {int(word) for word in _words(orders.get(_STATUS_CODES)) if _is_number(word)}
    names = sorted(word.lower() for word in _words(orders.get(_HEADER_NAMES)))
    return replace(
        base,
        retry_on=base.retry_on | asked,
        retries=_number(orders.get(_MAX_RETRIES), base.retries),
        status_codes=base.status_codes | codes,
        retriable_headers=base.retriable_headers + tuple(HeaderMatch(name, _PRESENT) for name in names),
    )


_PRESENT = StringMatch(MatchKind.PRESENT)


def _words(value: str | None) -> set[str]:
    return {word.strip() for word in value.split(",") if word.strip()} if value else set()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and _is_number(text) else default


def _seconds(milliseconds: str | None, default: float | None) -> float | None:
    if milliseconds is None or not _is_number(milliseconds):
        return default
    return int(milliseconds) / 1000 or None  # Envoy: 0 turns the timeout off


def _useful(per_try: float | None, timeout: float | None) -> float | None:
    """Envoy drops a try's timeout that is not shorter than the whole."""
    return None if per_try is not None and timeout is not None and per_try >= timeout else per_try
