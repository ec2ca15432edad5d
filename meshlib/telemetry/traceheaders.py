"""Trace headers: W3C's `traceparent` and both forms of B3, to and from one value.

Nothing here raises: a header that breaks its specification is as good as absent (W3C Trace Context 4.3: "the vendor creates a
new traceparent"), so a hostile client can at most start a new trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from meshlib.facts import Headers

B3Form = Literal["", "multi", "single"]

B3_HEADERS = ("b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "x-b3-parentspanid")
TRACE_HEADERS = ("traceparent", "tracestate", *B3_HEADERS)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_B3_SINGLE = re.compile(r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?")
_TRACE_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED = {"1": True, "true": True, "d": True, "0": False, "false": False}


class TraceParent(NamedTuple):
    """What the caller said about the trace.

    Args:
        trace_id, span_id: 32 and 16 hex digits, or both empty: the caller decided on sampling but began no trace (`b3: 0`).
        sampled: None: the caller leaves the decision to us.
    """

    trace_id: str
    span_id: str
    sampled: bool | None
    b3: B3Form = ""


def parse(found: Mapping[str, str]) -> TraceParent | None:
    """The caller's trace; `traceparent` wins over B3, but B3's form is remembered so that B3 is spoken on.

    Args:
        found: the request's headers among TRACE_HEADERS, equal names joined by commas.
    """
    b3 = None if found.keys().isdisjoint(B3_HEADERS) else _b3_single(found.get("b3")) or _b3_multi(found)
    w3c = _w3c(found.get("traceparent"), b3.b3 if b3 else "")
    return w3c or b3


def _w3c(value: str | None, b3: B3Form) -> TraceParent | None:
    parts = _TRACEPARENT.fullmatch(value) if value else None
    if parts is None:
        return None
    version, trace_id, span_id, flags, rest = parts.groups()
    # Trace Context 2.2.1: version ff is invalid; version 00 ends after the flags, later ones may go on.
    invalid = version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN
    return None if invalid else TraceParent(trace_id, span_id, bool(int(flags, 16) & 1), b3)


def _b3_single(value: str | None) -> TraceParent | None:
    if not value:
        return None
    text = value.lower()
    if text in _SAMPLED:
        return TraceParent("", "", _SAMPLED[text], "single")
    parts = _B3_SINGLE.fullmatch(text)
    return _b3(parts[1], parts[2], _SAMPLED.get(parts[3] or ""), "single") if parts else None


def _b3_multi(found: Mapping[str, str]) -> TraceParent | None:
    sampled = True if found.get("x-b3-flags") == "1" else _SAMPLED.get(found.get("x-b3-sampled", "").lower())
    trace_id = found.get("x-b3-traceid", "").lower()
    span_id = found.get("x-b3-spanid", "").lower()
    if _TRACE_ID.fullmatch(trace_id) and _SPAN_ID.fullmatch(span_id):
        return _b3(trace_id, span_id, sampled, "multi")
    return None if sampled is None else TraceParent("", "", sampled, "multi")


def _b3(trace_id: str, span_id: str, sampled: bool | None, form: B3Form) -> TraceParent | None:
    if int(trace_id, 16) == 0 or span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id.zfill(32), span_id, sampled, form)  # B3 knows 64-bit trace ids; W3C pads them on the left


def render(trace_id: str, span_id: str, sampled: bool, b3: B3Form) -> Headers:
    """The headers that tell a callee: `traceparent` always, B3 in the form the caller spoke."""
    traceparent = ("traceparent", f"00-{trace_id}-{span_id}-0{sampled:d}")
    if not b3:
        return (traceparent,)
    if b3 == "single":
        return traceparent, ("b3", f"{trace_id}-{span_id}-{sampled:d}")
    return traceparent, ("x-b3-traceid", trace_id), ("x-b3-spanid", span_id), ("x-b3-sampled", f"{sampled:d}")
