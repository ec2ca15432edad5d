"""Istio's request metrics in a registry of our own: one dictionary lookup and four additions a request.

A cell holds all numbers of one set of labels, bound once. A snapshot is a plain mapping, so that the workers of one instance
can be added up and written down.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import starmap
from operator import add

from meshlib.telemetry.events import Reporter, RequestEvent, Workload

LABELS = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
)
"""Istio's labels in Istio's order."""

BUCKETS = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000)
"""Upper bounds of Istio's histograms, inclusive; milliseconds or bytes."""

HISTOGRAMS = (
    ("istio_request_duration_milliseconds", "Time from the first byte of the request to the last of the response."),
    ("istio_request_bytes", "Size of request bodies."),
    ("istio_response_bytes", "Size of response bodies."),
)

WIDTH = len(BUCKETS) + 2  # of a histogram in a cell: the sum, a count for each bucket, a count for what is above all
MESSAGES = (
    ("istio_request_messages_total", "gRPC messages that clients sent."),
    ("istio_response_messages_total", "gRPC messages that servers sent."),
)
"""Counters of gRPC calls; other protocols have none."""

FIRST_MESSAGES = 1 + WIDTH * len(HISTOGRAMS)  # in a cell: the number of requests, the histograms, the messages
CELL = FIRST_MESSAGES + len(MESSAGES)

DRY_RUN_LABELS = ("port", "authz_dry_run_action", "authz_dry_run_result")
"""Of what policies on trial would have done; the port goes into the metric's name, as in Istio's."""

_SHAPES = {len(LABELS): CELL, len(DRY_RUN_LABELS): 1}  # how many labels a row has, and how many numbers

LabelValues = tuple[str, ...]
Snapshot = Mapping[LabelValues, tuple[float, ...]]
"""Rows of two kinds, by LABELS and by DRY_RUN_LABELS: told apart by the number of labels."""
_Key = tuple[Reporter, Workload, Workload, str, int, str, str, bool | None]

_SECURITY = {None: "unknown", True: "mutual_tls", False: "none"}
_OTHER = Workload(workload="other", cluster="")


class RequestMetrics:
    """Counts every finished request; a listener of `Telemetry`.

    A forked child starts from zero: what its parent counted is told by the parent.

    Args:
        limit: sets of labels to tell apart. Later ones are counted with source and destination `other`, so that peers which
            make up names cannot fill the memory.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._cells: dict[_Key, list[float]] = {}
        self._dry_runs: Counter[LabelValues] = Counter()
        self._lock = threading.Lock()
        _registries.add(self)

    def __call__(self, event: RequestEvent) -> None:
        key = (
            event.reporter,
            event.source,
            event.destination,
            event.request_protocol,
            event.status,
            event.grpc_status,
            event.flags,
            event.secured,
        )
        milliseconds = event.duration * 1000
        with self._lock:
            cell = self._cells.get(key) or self._bind(key)
            cell[0] += 1
            cell[1] += milliseconds
            cell[2 + bisect_left(BUCKETS, milliseconds)] += 1
            cell[1 + WIDTH] += event.bytes_received
            cell[2 + WIDTH + bisect_left(BUCKETS, event.bytes_received)] += 1
            cell[1 + 2 * WIDTH] += event.bytes_sent
            cell[2 + 2 * WIDTH + bisect_left(BUCKETS, event.bytes_sent)] += 1
            if event.request_messages or event.response_messages:
                cell[FIRST_MESSAGES] += event.request_messages
                cell[FIRST_MESSAGES + 1] += event.response_messages
            for trial in event.dry_runs:
                self._dry_runs[event.local_address.rpartition(":")[2], trial.action, trial.result] += 1

    def _bind(self, key: _Key) -> list[float]:
        if len(self._cells) >= self._limit:
            key = (key[0], _OTHER, _OTHER, *key[3:])
        return self._cells.setdefault(key, [0] * CELL)

    def snapshot(self) -> Snapshot:
        """What was counted up to now."""
        with self._lock:
            cells = [(key, tuple(cell)) for key, cell in self._cells.items()]
            trials = {key: (float(count),) for key, count in self._dry_runs.items()}
        return merge([*({labels(*key): cell} for key, cell in cells), trials])

    def restart(self) -> None:
        """Forget everything; in a forked child, where the lock may be held by a thread that does not exist."""
        self._lock = threading.Lock()
        self._cells = {}
        self._dry_runs = Counter()


_registries: weakref.WeakSet[RequestMetrics] = weakref.WeakSet()


def _restart_all() -> None:
    for registry in list(_registries):
        registry.restart()


os.register_at_fork(after_in_child=_restart_all)


def labels(
    reporter: Reporter,
    source: Workload,
    destination: Workload,
    protocol: str,
    status: int,
    grpc_status: str,
    flags: str,
    secured: bool | None,
) -> LabelValues:
    """Label values in the order of LABELS; what is not known is `unknown`, an unknown revision `latest`, as in Istio."""
    return (
        reporter.value,
        *(value or "unknown" for value in (*_source(source), *_destination(destination), protocol)),
        str(status),
        grpc_status,
        flags,
        "unknown" if reporter is Reporter.SOURCE else _SECURITY[secured],
    )


def _source(workload: Workload) -> LabelValues:
    return (
        workload.workload,
        workload.app or workload.workload,
        workload.version or "latest",
        workload.namespace,
        workload.principal,
        workload.app,
        workload.version,
        workload.cluster,
    )


def _destination(workload: Workload) -> LabelValues:
    return (
        workload.workload,
        workload.namespace,
        workload.principal,
        workload.app,
        workload.version,
        workload.service,
        workload.app or workload.workload,
        workload.version or "latest",
        workload.service_name,
        workload.namespace,
        workload.cluster,
    )


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up what several processes counted."""
    total: dict[LabelValues, tuple[float, ...]] = {}
    for snapshot in snapshots:
        for key, cell in snapshot.items():
            known = total.get(key)
            total[key] = cell if known is None else tuple(starmap(add, zip(known, cell, strict=True)))
    return total


def encode(snapshot: Snapshot) -> bytes:
    """A snapshot as JSON, for another process."""
    return json.dumps([[list(key), list(cell)] for key, cell in snapshot.items()]).encode()


def decode(data: bytes) -> Snapshot:
    """The opposite of `encode`.

    Raises:
        ValueError: the bytes are no snapshot of this version.
    """
    try:
        snapshot = {tuple(key): tuple(cell) for key, cell in json.loads(data)}
    except TypeError as error:
        raise ValueError("not a snapshot of metrics") from error
    if not all(_SHAPES.get(len(key)) == len(cell) for key, cell in snapshot.items()):
        raise ValueError("not a snapshot of this version's metrics")
    return snapshot
