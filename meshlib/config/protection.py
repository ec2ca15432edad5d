"""How a cluster is protected: limits on what is under way to it, endpoints left out after errors, how connections live.

Part of the model, and under its rules: frozen, validated by `decode`, durations in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

UNLIMITED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries as a share of what is under way.

    Args:
        percent: of the requests under way and waiting, 0 to 100.
        min_concurrency: retries that are always allowed.
    """

    percent: float = 20.0
    min_concurrency: int = 3


@dataclass(frozen=True, slots=True)
class CircuitBreakers:
    """The most that may be under way to one cluster from this process; beyond it, requests fail at once with UO.

    Args:
        max_connections: open ones, idle or not; an endpoint without any may always have one.
        max_pending_requests: waiting for a connection, or for one to be made.
        max_requests: under way on a connection.
        max_retries: tries after the first, of all requests together; `retry_budget` replaces it.
    """

    max_connections: int = UNLIMITED
    max_pending_requests: int = UNLIMITED
    max_requests: int = UNLIMITED
    max_retries: int = UNLIMITED
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When an endpoint that fails is left out, and for how long.

    Args:
        consecutive_5xx: errors in a row, connection failures and time-outs included; 0: never.
        consecutive_gateway_errors: 502, 503, 504 in a row, and the same; 0: never.
        consecutive_local_origin_failures: failed connections and time-outs in a row, if they are `split` off; 0: never.
        split: what went wrong on the way does not count as an error of the endpoint's.
        interval: seconds between two looks at who may come back.
        base_ejection_time, max_ejection_time: seconds; the n-th time in a row lasts n times the base, at most the maximum.
        max_ejection_percent: of the endpoints may be left out together.
        error_codes: statuses that count as errors, in place of all from 500.
    """

    consecutive_5xx: int = 5
    consecutive_gateway_errors: int = 0
    consecutive_local_origin_failures: int = 0
    split: bool = False
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejection_percent: int = 10
    error_codes: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Probes of a silent TCP connection; None: the operating system's default.

    Args:
        probes: without an answer until the connection is given up.
        idle: seconds of silence before the first.
        interval: seconds between two.
    """

    probes: int | None = None
    idle: int | None = None
    interval: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """How long the connections to a cluster are kept.

    Args:
        cluster: its connections are for it alone, and counted.
        idle_timeout: seconds a connection may wait for its next request; None: the library's default.
        max_requests: on one connection; 0: no limit.
        max_duration: seconds after which a connection gets no further request; None: no limit.
    """

    cluster: str
    idle_timeout: float | None = None
    max_requests: int = 0
    max_duration: float | None = None
    keepalive: Keepalive | None = None
