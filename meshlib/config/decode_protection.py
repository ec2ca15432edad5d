"""Circuit breakers, outlier detection and connection settings of a cluster. Part of `decode`, and under its rules."""

from __future__ import annotations

from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config.protection import CircuitBreakers, ConnectionPolicy, Keepalive, OutlierDetection, RetryBudget
from meshlib.errors import ConfigurationError

_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# Envoy's defaults (circuit_breaker.proto) for what a threshold leaves out.
_THRESHOLDS = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3}

PANIC_THRESHOLD = 50.0  # percent; Envoy's default


def circuit_breakers(message: Any) -> CircuitBreakers | None:
    """The limits of the default priority; None: no limits. A cluster that says nothing has none, as Istio means it."""
    for threshold in message.circuit_breakers.thresholds:
        if fields.enum_name(threshold, "priority") == "DEFAULT":
            found = CircuitBreakers(
                **{name: _number(threshold, name, default) for name, default in _THRESHOLDS.items()},
                retry_budget=_retry_budget(threshold),
            )
            return None if found == CircuitBreakers() else found
    return None


def _retry_budget(threshold: Any) -> RetryBudget | None:
    if not threshold.HasField("retry_budget"):
        return None
    budget, default = threshold.retry_budget, RetryBudget()
    percent = budget.budget_percent.value if budget.HasField("budget_percent") else default.percent
    return RetryBudget(percent, _number(budget, "min_retry_concurrency", default.min_concurrency))


def outlier_detection(message: Any) -> OutlierDetection | None:
    """None: no endpoint is ever left out."""
    if not message.HasField("outlier_detection"):
        return None
    given, default = message.outlier_detection, OutlierDetection()
    _refuse_statistics(given)
    base = fields.seconds(given, "base_ejection_time", "outlier_detection") or default.base_ejection_time
    split = given.split_external_local_origin_errors
    return OutlierDetection(
        consecutive_5xx=_errors(given, "consecutive_5xx", 100),
        consecutive_gateway_errors=_errors(given, "consecutive_gateway_failure", 0),
        consecutive_local_origin_failures=_errors(given, "consecutive_local_origin_failure", 100) if split else 0,
        split=split,
        interval=fields.seconds(given, "interval", "outlier_detection") or default.interval,
        base_ejection_time=base,
        max_ejection_time=fields.seconds(given, "max_ejection_time", "outlier_detection")
        or max(base, default.max_ejection_time),
        max_ejection_percent=min(100, _number(given, "max_ejection_percent", default.max_ejection_percent)),
        error_codes=_error_codes(_protocol_options(message)),
    )


def _errors(given: Any, name: str, enforced: int) -> int:
    """Errors in a row; 0 where they are counted only."""
    percent = _number(given, f"enforcing_{name}", enforced)
    if percent not in (0, 100):
        raise ConfigurationError(
            "only 0 and 100 are supported: errors eject or they do not", field=f"outlier_detection.enforcing_{name}"
        )
    return _number(given, name, 5) if percent else 0


def _refuse_statistics(given: Any) -> None:
    # Envoy compares success rates unless it is told not to. Istio always tells it.
    kinds = {"enforcing_success_rate": 100, "enforcing_failure_percentage": 0}
    if given.split_external_local_origin_errors:
        kinds |= {"enforcing_local_origin_success_rate": 100, "enforcing_failure_percentage_local_origin": 0}
    for name, default in kinds.items():
        if _number(given, name, default):
            raise ConfigurationError(
                "ejection by success rate or failure percentage is not supported: set it to 0",
                field=f"outlier_detection.{name}",
            )


def _error_codes(options: Any | None) -> frozenset[int]:
    if options is None or not options.outlier_detection.HasField("error_matcher"):
        return frozenset()
    matcher = options.outlier_detection.error_matcher
    rules = matcher.or_match.rules if matcher.WhichOneof("rule") == "or_match" else [matcher]
    return frozenset(code for rule in rules for code in _codes(rule))


def _codes(rule: Any) -> list[int]:
    headers = rule.http_response_headers_match.headers
    exact = [header.string_match.exact for header in headers if header.name == ":status"]
    if rule.WhichOneof("rule") != "http_response_headers_match" or len(headers) != 1 or not "".join(exact).isdigit():
        raise ConfigurationError(
            "only exact matches of :status are supported", field="typed_extension_protocol_options.outlier_detection"
        )
    return [int(exact[0])]


def panic_threshold(message: Any) -> float:
    """Percent of healthy endpoints below which all are used."""
    common = message.common_lb_config
    return float(common.healthy_panic_threshold.value) if common.HasField("healthy_panic_threshold") else PANIC_THRESHOLD


def connection_policy(message: Any, breakers: CircuitBreakers | None) -> ConnectionPolicy | None:
    """None: connections live as the library likes, and are shared by clusters."""
    options = _protocol_options(message)
    found = ConnectionPolicy(message.name, keepalive=_keepalive(message))
    if options is not None:
        common, place = options.common_http_protocol_options, "common_http_protocol_options"
        found = ConnectionPolicy(
            message.name,
            idle_timeout=fields.seconds(common, "idle_timeout", place) or None,
            max_requests=_number(common, "max_requests_per_connection", 0),
            max_duration=fields.seconds(common, "max_connection_duration", place) or None,
            keepalive=found.keepalive,
        )
    return None if breakers is None and found == ConnectionPolicy(message.name) else found


def _keepalive(message: Any) -> Keepalive | None:
    if not message.upstream_connection_options.HasField("tcp_keepalive"):
        return None
    given = message.upstream_connection_options.tcp_keepalive
    numbers = ("keepalive_probes", "keepalive_time", "keepalive_interval")
    return Keepalive(*(getattr(given, name).value if given.HasField(name) else None for name in numbers))


def _protocol_options(message: Any) -> Any | None:
    options = message.typed_extension_protocol_options
    return fields.unpacked(options[_OPTIONS], f"typed_extension_protocol_options[{_OPTIONS}]") if _OPTIONS in options else None


def _number(owner: Any, name: str, default: int) -> int:
    return int(getattr(owner, name).value) if owner.HasField(name) else default
