"""Prometheus' text format 0.0.4, written without its client library."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from meshlib.telemetry.metrics import BUCKETS, FIRST_MESSAGES, HISTOGRAMS, LABELS, MESSAGES, WIDTH, LabelValues, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")
_PROTOCOL = LABELS.index("request_protocol")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(snapshot: Snapshot) -> str:
    """All metrics as a page that Prometheus scrapes."""
    rows = [(_labels(key), cell) for key, cell in snapshot.items()]
    lines = [*_head("istio_requests_total", "counter", "Requests, by who asked whom and how it ended.")]
    lines += [f"istio_requests_total{{{labels}}} {_number(cell[0])}" for labels, cell in rows]
    for position, (name, text) in enumerate(HISTOGRAMS):
        begin = 1 + position * WIDTH
        lines += _head(name, "histogram", text)
        for labels, cell in rows:
            lines += _histogram(name, labels, cell[begin : begin + WIDTH])
    calls = [(_labels(key), cell) for key, cell in snapshot.items() if key[_PROTOCOL] == "grpc"]
    for position, (name, text) in enumerate(MESSAGES if calls else (), FIRST_MESSAGES):
        lines += _head(name, "counter", text)
        lines += [f"{name}{{{labels}}} {_number(cell[position])}" for labels, cell in calls]
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(values: LabelValues) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(LABELS, values, strict=True))


def _histogram(name: str, labels: str, numbers: tuple[float, ...]) -> Iterator[str]:
    total, *counts = numbers
    reached = list(accumulate(counts))
    for bound, count in zip(_BOUNDS, reached, strict=True):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {_number(count)}'
    yield f"{name}_sum{{{labels}}} {_number(total)}"
    yield f"{name}_count{{{labels}}} {_number(reached[-1])}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
