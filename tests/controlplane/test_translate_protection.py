"""A DestinationRule's limits and ejections, as each kind of client gets them."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.decode_cluster import cluster as read
from meshlib.config.messages import unpack
from meshlib.config.model import Cluster
from meshlib.config.protection import CircuitBreakers, ConnectionPolicy, Keepalive, OutlierDetection, RetryBudget
from meshlib_control.model import Node
from meshlib_control.translate.resources import CLUSTER, translate
from tests.support.worlds import client, decoded, host, world

NAME = f"outbound|9080||{host('reviews')}"
HEAD = (
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\n"
    f"spec:\n  host: {host('reviews')}\n  trafficPolicy:\n"
)


def made(policy: str, node: Node | None = None) -> Any:
    return decoded(translate(world(f"{HEAD}    {policy}\n"), node or client(), CLUSTER, NAME))


def library(policy: str) -> Cluster:
    return read(made(policy))


def test_without_a_word_nothing_is_limited() -> None:
    """Neither requests nor connections, and nobody is left out."""
    found = library("loadBalancer: {simple: RANDOM}")
    assert (found.circuit_breakers, found.outlier_detection, found.connections) == (None, None, None)


def test_the_circuit_breaker_of_istios_task() -> None:
    """What is not named has no limit."""
    found = library(
        "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}},"
        " outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 3m, maxEjectionPercent: 100}}"
    )
    assert found.circuit_breakers == CircuitBreakers(max_connections=1, max_pending_requests=1)
    assert found.connections == ConnectionPolicy(NAME, max_requests=1)
    assert found.outlier_detection == OutlierDetection(
        consecutive_5xx=1, interval=1.0, base_ejection_time=180.0, max_ejection_percent=100
    )
    assert found.panic_threshold == 0


@pytest.mark.parametrize(
    ("policy", "outliers"),
    [
        ("{}", OutlierDetection()),
        ("{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3}", OutlierDetection(0, 3)),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}",
            OutlierDetection(split=True, consecutive_local_origin_failures=2),
        ),
        (
            "{splitExternalLocalOriginErrors: true}",
            OutlierDetection(split=True, consecutive_local_origin_failures=5),
        ),
        ("{baseEjectionTime: 400s}", OutlierDetection(base_ejection_time=400.0, max_ejection_time=400.0)),
        ("{outlierDetectionHttpErrorCodes: [429]}", OutlierDetection(error_codes=frozenset({429}))),
        ("{outlierDetectionHttpErrorCodes: [429, 500]}", OutlierDetection(error_codes=frozenset({429, 500}))),
    ],
)
def test_outlier_detection(policy: str, outliers: OutlierDetection) -> None:
    """Zero turns a kind of error off; local failures count for themselves only where they are split off."""
    assert library(f"outlierDetection: {policy}").outlier_detection == outliers


def test_panic() -> None:
    """`minHealthPercent` is Envoy's panic threshold."""
    assert library("outlierDetection: {minHealthPercent: 40}").panic_threshold == 40
    assert library("loadBalancer: {simple: RANDOM}").panic_threshold == 50


def test_retries() -> None:
    """A budget, with Istio's defaults, or a number."""
    found = library("retryBudget: {percent: 12.5}").circuit_breakers
    assert found == CircuitBreakers(retry_budget=RetryBudget(12.5, 3))
    assert library("connectionPool: {http: {maxRetries: 2}}").circuit_breakers == CircuitBreakers(max_retries=2)


def test_lives_of_connections() -> None:
    """HTTP's idle time goes before TCP's."""
    found = library(
        "connectionPool: {tcp: {idleTimeout: 9s, maxConnectionDuration: 5s, tcpKeepalive: {probes: 2, time: 7s}},"
        " http: {idleTimeout: 3s}}"
    )
    assert found.connections == ConnectionPolicy(NAME, idle_timeout=3.0, max_duration=5.0, keepalive=Keepalive(2, 7))


def test_grpcs_own_clients_get_what_they_obey() -> None:
    """The limit on requests alone, also where there is none: theirs would be 1,024."""
    node = client(kind="grpc")
    found = made("{connectionPool: {http: {http2MaxRequests: 7}}, outlierDetection: {consecutive5xxErrors: 1}}", node)
    (threshold,) = found.circuit_breakers.thresholds
    assert threshold.max_requests.value == 7
    assert not found.HasField("outlier_detection")
    (threshold,) = made("loadBalancer: {simple: RANDOM}", node).circuit_breakers.thresholds
    assert threshold.max_requests.value == 2**32 - 1


def test_what_envoy_is_told_of_http() -> None:
    """HTTP/1.1 is named where anything is said about it: Envoy demands one of the versions."""
    found = made("connectionPool: {http: {maxRequestsPerConnection: 1}}", client(kind="envoy"))
    (options,) = found.typed_extension_protocol_options.values()
    assert unpack(options).explicit_http_config.HasField("http_protocol_options")
