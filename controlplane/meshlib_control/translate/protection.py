"""Limits, ejections and lives of connections that a DestinationRule asks for, as parts of a cluster.

As Istio makes them (cluster_traffic_policy.go).

Rule 1: 0 means "not set": nothing is limited that nobody limits. Envoy's own limits are 1,024 requests and 3 retries.
Rule 2: ejection by success rate is always off. With outlier detection the panic threshold is `minHealthPercent`, 0 if not set.
Rule 3: gRPC's own clients obey a limit on requests alone (gRFC A32); of outlier detection they know only the kinds that Istio
turns off (gRFC A50).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshlib.config.protection import UNLIMITED, RetryBudget
from meshlib_control.kinds import destination_rule as kinds
from meshlib_control.model import Node
from meshlib_control.translate.build import duration
from meshlib_control.translate.destination_rule import Policy
from meshlib_control.translate.envoy import clusters as envoy

_NO_TCP, _NO_HTTP = kinds.TcpPool(), kinds.HttpPool()


def protection(node: Node, policy: Policy, protocol: str) -> dict[str, Any]:
    """The fields of a cluster.

    Args:
        protocol: what its port speaks, in lower case.
    """
    pool = policy.connection_pool or kinds.ConnectionPool()
    tcp, http = pool.tcp or _NO_TCP, pool.http or _NO_HTTP
    breakers = {"circuit_breakers": {"thresholds": [_threshold(tcp, http, policy.retry_budget)]}}
    if node.kind == "grpc":
        return {"circuit_breakers": {"thresholds": [{"max_requests": _limit(http.http2_max_requests)}]}}
    limited = http != _NO_HTTP or tcp.max_connections or policy.retry_budget is not None
    return {
        **(breakers if limited or node.kind == "envoy" else {}),
        **_outlier_detection(policy.outlier_detection),
        **_keepalive(tcp.tcp_keepalive),
        "typed_extension_protocol_options": envoy.protocol_options(
            protocol, common=_common(tcp, http), outlier_detection=_error_matcher(policy.outlier_detection)
        ),
    }


def _threshold(tcp: kinds.TcpPool, http: kinds.HttpPool, budget: kinds.RetryBudget | None) -> dict[str, Any]:
    return {
        "max_connections": _limit(tcp.max_connections),
        "max_pending_requests": _limit(http.http1_max_pending_requests),
        "max_requests": _limit(http.http2_max_requests),
        "max_retries": _limit(http.max_retries),
        "track_remaining": True,
        **({"retry_budget": _budget(budget)} if budget is not None else {}),
    }


def _limit(value: int) -> dict[str, int]:
    return {"value": value or UNLIMITED}


def _budget(budget: kinds.RetryBudget) -> dict[str, Any]:
    default = RetryBudget()
    percent = default.percent if budget.percent is None else budget.percent
    return {
        "budget_percent": {"value": percent},
        "min_retry_concurrency": {"value": budget.min_retry_concurrency or default.min_concurrency},
    }


def _common(tcp: kinds.TcpPool, http: kinds.HttpPool) -> dict[str, Any]:
    """How long connections live."""
    idle = tcp.idle_timeout if http.idle_timeout is None else http.idle_timeout
    lifetime = tcp.max_connection_duration
    return {
        **({"idle_timeout": duration(idle)} if idle is not None else {}),
        **({"max_connection_duration": duration(lifetime)} if lifetime is not None else {}),
        **(
            {"max_requests_per_connection": {"value": http.max_requests_per_connection}}
            if http.max_requests_per_connection
            else {}
        ),
    }


def _keepalive(keepalive: kinds.TcpKeepalive | None) -> dict[str, Any]:
    if keepalive is None:
        return {}
    given = {
        "keepalive_probes": keepalive.probes,
        "keepalive_time": int(keepalive.time or 0),
        "keepalive_interval": int(keepalive.interval or 0),
    }
    return {
        "upstream_connection_options": {"tcp_keepalive": {name: {"value": value} for name, value in given.items() if value}}
    }


def _outlier_detection(outliers: kinds.OutlierDetection | None) -> dict[str, Any]:
    if outliers is None:
        return {}
    found: dict[str, Any] = {
        "enforcing_success_rate": {"value": 0},
        **_errors("consecutive_5xx", outliers.consecutive_5xx_errors),
        **_errors("consecutive_gateway_failure", outliers.consecutive_gateway_errors),
    }
    if outliers.interval is not None:
        found["interval"] = duration(outliers.interval)
    if outliers.base_ejection_time is not None:
        found["base_ejection_time"] = duration(outliers.base_ejection_time)
    if outliers.max_ejection_percent:
        found["max_ejection_percent"] = {"value": outliers.max_ejection_percent}
    if outliers.split_external_local_origin_errors:
        found |= {"split_external_local_origin_errors": True, "enforcing_local_origin_success_rate": {"value": 0}}
        found |= _errors("consecutive_local_origin_failure", outliers.consecutive_local_origin_failures or None)
    panic = {"healthy_panic_threshold": {"value": float(outliers.min_health_percent)}}
    return {"outlier_detection": found, "common_lb_config": panic}


def _errors(name: str, count: int | None) -> dict[str, Any]:
    if count is None:
        return {}
    return {name: {"value": count}, f"enforcing_{name}": {"value": 100 if count else 0}}


def _error_matcher(outliers: kinds.OutlierDetection | None) -> dict[str, Any] | None:
    codes: Sequence[int] = outliers.outlier_detection_http_error_codes if outliers is not None else ()
    rules = [
        {"http_response_headers_match": {"headers": [{"name": ":status", "string_match": {"exact": str(code)}}]}}
        for code in codes
    ]
    if not rules:
        return None
    return {"error_matcher": rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}}
