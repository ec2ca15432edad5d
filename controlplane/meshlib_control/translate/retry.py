"""Retry policies: Istio's defaults, and what a VirtualService says instead.

Istio: pilot/pkg/networking/core/route/retry/retry.go.
"""

from __future__ import annotations

from typing import Any

from meshlib.config.messages import message, pack
from meshlib_control.kinds.virtual_service import HttpRetry
from meshlib_control.translate.build import duration

DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
DEFAULT_RETRIES = 2
HOST_SELECTION_ATTEMPTS = 5
_STATUS_CODES = "retriable-status-codes"


def retry_policy(retries: HttpRetry | None) -> dict[str, Any] | None:
    """The RetryPolicy of a route; None switches retries off (`attempts` of zero or less)."""
    if retries is None:
        return {**_avoiding_previous_hosts(), "retry_on": DEFAULT_RETRY_ON, "num_retries": {"value": DEFAULT_RETRIES}}
    if retries.attempts <= 0:
        return None
    conditions, codes = _conditions(retries.retry_on) if retries.retry_on else (DEFAULT_RETRY_ON, [])
    policy: dict[str, Any] = {
        "retry_on": conditions,
        "retriable_status_codes": codes,
        "num_retries": {"value": retries.attempts},
    }
    if retries.retry_ignore_previous_hosts is not False:
        policy |= _avoiding_previous_hosts()
    if retries.per_try_timeout:
        policy["per_try_timeout"] = duration(retries.per_try_timeout)
    if retries.backoff:
        policy["retry_back_off"] = {"base_interval": duration(retries.backoff)}
    return policy


def _conditions(retry_on: str) -> tuple[str, list[int]]:
    """Envoy's conditions, and the status codes that Istio allows among them."""
    words = [word.strip() for word in retry_on.split(",") if word.strip()]
    codes = [int(word) for word in words if _is_status(word)]
    conditions = [word for word in words if not _is_status(word)]
    if codes and _STATUS_CODES not in conditions:
        conditions.append(_STATUS_CODES)
    return ",".join(conditions), codes


def _is_status(word: str) -> bool:
    return word.isascii() and word.isdigit() and 100 <= int(word) <= 599


def _avoiding_previous_hosts() -> dict[str, Any]:
    predicate = pack(message("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")())
    return {
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": predicate}],
        "host_selection_retry_max_attempts": HOST_SELECTION_ATTEMPTS,
    }
