"""Endpoints that fail again and again are left out for a while (Envoy's outlier detection).

Rule 1: errors in a row count, each kind for itself. Without `split` what goes wrong on the way counts as an answer: 504 for a
time-out, 503 for the rest. With it, such failures have a count of their own, and a connection that was made ends a row.
Rule 2: an endpoint is left out only if the share of those left out stays within `max_ejection_percent`. So with the default of
10 nobody among nine is (Istio's users are often surprised).
Rule 3: who may come back is looked at once per interval. The n-th ejection in a row lasts n times the base; each interval
without one takes back one of them.
Rule 4: a row starts anew when it has reached its length, and when the endpoint comes back.

Time is an argument, and nothing happens between calls: missed intervals are made up for. Threads share it without a lock; what
could be lost is one count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshlib.config.protection import OutlierDetection

Key = tuple[str, int]

_GATEWAY_ERRORS = frozenset({502, 503, 504})
_TIMED_OUT, _NOT_CONNECTED = 504, 503
_LISTED, _NOT_LISTED = 500, 200  # what Envoy makes of statuses where the errors are listed


@dataclass(slots=True)
class _Record:
    """What one endpoint has done: errors in a row, and ejections (`backoff`: how many in a row)."""

    consecutive_5xx: int = 0
    consecutive_gateway_errors: int = 0
    consecutive_local_origin_failures: int = 0
    ejected_at: float | None = None
    returned_at: float | None = None
    backoff: int = 0

    def forgive(self) -> None:
        self.consecutive_5xx = self.consecutive_gateway_errors = self.consecutive_local_origin_failures = 0


class Outliers:
    """The endpoints of one cluster, as this process sees them.

    Attributes:
        ejected: who is left out now; another object after each change.
        enforced: ejections so far (Envoy: outlier_detection.ejections_enforced_total).
        prevented: ejections that rule 2 forbade (Envoy: outlier_detection.ejections_overflow).
    """

    __slots__ = ("_config", "_next", "_records", "ejected", "enforced", "prevented")

    def __init__(self, config: OutlierDetection) -> None:
        self._config = config
        self._records: dict[Key, _Record] = {}
        self._next: float | None = None
        self.ejected: frozenset[Key] = frozenset()
        self.enforced = 0
        self.prevented = 0

    def __repr__(self) -> str:
        return f"<Outliers {len(self.ejected)} of {len(self._records)} ejected>"

    def update(self, config: OutlierDetection, keys: Iterable[Key]) -> None:
        """New rules, or other endpoints: who stays keeps its record."""
        self._config = config
        self._records = {key: self._records.get(key) or _Record() for key in keys}
        self._publish()

    def answered(self, key: Key, status: int, now: float, *, grpc: bool = False) -> None:
        """An endpoint answered.

        Args:
            grpc: a gRPC request was answered; a list of error codes does not concern it. `status` says the same as its gRPC
                status, if one came with the head.
        """
        record = self._records.get(key)
        if record is None:
            return
        record.consecutive_local_origin_failures = 0
        codes = self._config.error_codes
        if codes and not grpc:
            status = max(status, _LISTED) if status in codes else _NOT_LISTED
        self._count(record, status, now)

    def failed(self, key: Key, now: float, *, connected: bool, timed_out: bool = False) -> None:
        """A try at an endpoint ended without an answer.

        Args:
            connected: there was a connection.
        """
        record = self._records.get(key)
        if record is None:
            return
        if not self._config.split:
            self._count(record, _TIMED_OUT if timed_out else _NOT_CONNECTED, now)
            return
        if connected:
            record.consecutive_local_origin_failures = 0
        record.consecutive_local_origin_failures += 1
        if record.consecutive_local_origin_failures == self._config.consecutive_local_origin_failures and self._judge(
            record, now
        ):
            record.consecutive_local_origin_failures = 0

    def _count(self, record: _Record, status: int, now: float) -> None:
        if status < 500:
            record.consecutive_5xx = record.consecutive_gateway_errors = 0
            return
        if status in _GATEWAY_ERRORS:
            record.consecutive_gateway_errors += 1
            if record.consecutive_gateway_errors == self._config.consecutive_gateway_errors and self._judge(record, now):
                record.consecutive_gateway_errors = 0
        else:
            record.consecutive_gateway_errors = 0
        record.consecutive_5xx += 1
        if record.consecutive_5xx == self._config.consecutive_5xx and self._judge(record, now):
            record.consecutive_5xx = 0

    def _judge(self, record: _Record, now: float) -> bool:
        """Leave an endpoint out, if rule 2 lets us; False: it is out already."""
        if record.ejected_at is not None:
            return False
        config = self._config
        if 100 * (len(self.ejected) + 1) > config.max_ejection_percent * len(self._records):
            self.prevented += 1
            return True
        self.enforced += 1
        record.ejected_at = now
        if record.backoff * config.base_ejection_time < config.max_ejection_time + config.base_ejection_time:
            record.backoff += 1
        self._publish()
        return True

    def sweep(self, now: float) -> None:
        """Let those come back whose time is over, if an interval has passed."""
        if self._next is None:
            self._next = now + self._config.interval
            return
        while now >= self._next:
            self._look(self._next)
            self._next += self._config.interval
            if not any(record.backoff for record in self._records.values()):  # nothing is left to happen
                missed = max(0.0, (now - self._next) // self._config.interval + 1)
                self._next += missed * self._config.interval

    def _look(self, now: float) -> None:
        config = self._config
        for record in list(self._records.values()):
            if record.ejected_at is not None:
                if now - record.ejected_at >= min(config.base_ejection_time * record.backoff, config.max_ejection_time):
                    record.ejected_at, record.returned_at = None, now
                    record.forgive()
            elif record.backoff and record.returned_at is not None and now - record.returned_at >= config.interval:
                record.backoff -= 1
        self._publish()

    def _publish(self) -> None:
        ejected = frozenset(key for key, record in self._records.items() if record.ejected_at is not None)
        if ejected != self.ejected:
            self.ejected = ejected
