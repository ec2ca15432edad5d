"""Prometheus' text format 0.0.4, written without its client library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from meshlib.telemetry.metrics import (
    BUCKETS,
    DRY_RUN_LABELS,
    FIRST_MESSAGES,
    HISTOGRAMS,
    LABELS,
    MESSAGES,
    WIDTH,
    LabelValues,
    Snapshot,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")
_PROTOCOL = LABELS.index("request_protocol")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(snapshot: Snapshot) -> str:
    """All metrics as a page that Prometheus scrapes."""
    requests = {key: cell for key, cell in snapshot.items() if len(key) == len(LABELS)}
    rows = [(_labels(key), cell) for key, cell in requests.items()]
    lines = [*_head("istio_requests_total", "counter", "Requests, by who asked whom and how it ended.")]
    lines += [f"istio_requests_total{{{labels}}} {_number(cell[0])}" for labels, cell in rows]
    for position, (name, text) in enumerate(HISTOGRAMS):
        begin = 1 + position * WIDTH
        lines += _head(name, "histogram", text)
        for labels, cell in rows:
            lines += _histogram(name, labels, cell[begin : begin + WIDTH])
    calls = [(_labels(key), cell) for key, cell in requests.items() if key[_PROTOCOL] == "grpc"]
    for position, (name, text) in enumerate(MESSAGES if calls else (), FIRST_MESSAGES):
        lines += _head(name, "counter", text)
        lines += [f"{name}{{{labels}}} {_number(cell[position])}" for labels, cell in calls]
    lines += _dry_runs({key: cell[0] for key, cell in snapshot.items() if len(key) == len(DRY_RUN_LABELS)})
    return "\n".join(lines) + "\n"


def _dry_runs(counts: Mapping[LabelValues, float]) -> Iterator[str]:
    """What policies on trial would have done, a metric for each port, named as that of Istio's Envoy."""
    for port in sorted({key[0] for key in counts}):
        name = f"envoy_http_inbound_0_0_0_0_{port}_rbac"
        yield from _head(name, "counter", "Requests, by what policies on trial would have done.")
        for key, count in counts.items():
            if key[0] == port:
                yield f"{name}{{{_pairs(DRY_RUN_LABELS[1:], key[1:])}}} {_number(count)}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(values: LabelValues) -> str:
    return _pairs(LABELS, values)


def _pairs(names: Sequence[str], values: LabelValues) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))


def _histogram(name: str, labels: str, numbers: tuple[float, ...]) -> Iterator[str]:
    total, *counts = numbers
    reached = list(accumulate(counts))
    for bound, count in zip(_BOUNDS, reached, strict=True):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {_number(count)}'
    yield f"{name}_sum{{{labels}}} {_number(total)}"
    yield f"{name}_count{{{labels}}} {_number(reached[-1])}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
