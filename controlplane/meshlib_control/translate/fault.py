"""Faults of a VirtualService as Envoy's fault filter takes them, per route."""

from __future__ import annotations

from typing import Any

from meshlib.config.messages import message
from meshlib_control.kinds import Percent
from meshlib_control.kinds.common import GRPC_STATUSES
from meshlib_control.kinds.virtual_service import FaultAbort, FaultDelay, HttpFault
from meshlib_control.translate.build import duration

FILTER_NAME = "envoy.filters.http.fault"
_MILLION = 1_000_000

_GRPC_CODES = {name: number for number, name in enumerate(GRPC_STATUSES)}


def http_fault(fault: HttpFault | None) -> Any | None:
    """The HTTPFault message; None if no request would be touched: without a percentage there is no fault (Istio)."""
    parts = {"delay": _delay(fault.delay) if fault else None, "abort": _abort(fault.abort) if fault else None}
    given = {name: part for name, part in parts.items() if part}
    return message("envoy.extensions.filters.http.fault.v3.HTTPFault")(**given) if given else None


def _delay(delay: FaultDelay | None) -> dict[str, Any] | None:
    if delay is None or delay.fixed_delay is None:
        return None
    share = _fraction(delay.percentage or Percent(float(delay.percent)))
    return {"fixed_delay": duration(delay.fixed_delay), "percentage": share} if share else None


def _abort(abort: FaultAbort | None) -> dict[str, Any] | None:
    share = _fraction(abort.percentage) if abort else None
    if abort is None or share is None:
        return None
    if abort.http_status is not None:
        return {"http_status": abort.http_status, "percentage": share}
    code = _GRPC_CODES.get(abort.grpc_status or "")
    return None if code is None else {"grpc_status": code, "percentage": share}


def _fraction(percent: Percent | None) -> dict[str, Any] | None:
    """Istio's precision: a ten-thousandth of a percent."""
    numerator = round(percent.value * _MILLION / 100) if percent else 0
    return {"numerator": numerator, "denominator": "MILLION"} if numerator else None
