"""Istio's metrics and Prometheus' text."""

from __future__ import annotations

import operator
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from meshlib.facts import DryRun, Peer
from meshlib.telemetry import Reporter, RequestEvent, Workload
from meshlib.telemetry.metrics import BUCKETS, CELL, DRY_RUN_LABELS, LABELS, RequestMetrics, decode, encode, labels, merge
from meshlib.telemetry.prometheus import exposition

SOURCE = Workload("productpage-v1", "default", "spiffe://cluster.local/ns/default/sa/pages", "productpage", "v1")
DESTINATION = Workload("reviews-v2", "default", "", "reviews", "v2", "reviews.default.svc.cluster.local", "reviews")


def event(**fields: object) -> RequestEvent:
    known = RequestEvent(Reporter.SOURCE, SOURCE, DESTINATION, "GET", "/reviews/0", "reviews:9080", "HTTP/1.1", 200)
    return known._replace(**fields)


def samples(metrics: RequestMetrics) -> dict[tuple[str, str], float]:
    """Value by name and `le`, for metrics with one set of labels."""
    families = text_string_to_metric_families(exposition(metrics.snapshot()))
    return {(sample.name, sample.labels.get("le", "")): sample.value for family in families for sample in family.samples}


def test_labels_are_istios_in_istios_order() -> None:
    """Dashboards made for Istio read these."""
    metrics = RequestMetrics()
    metrics(event())
    line = next(line for line in exposition(metrics.snapshot()).splitlines() if line.startswith("istio_requests_total{"))
    assert line == (
        'istio_requests_total{reporter="source",source_workload="productpage-v1",source_canonical_service="productpage",'
        'source_canonical_revision="v1",source_workload_namespace="default",'
        'source_principal="spiffe://cluster.local/ns/default/sa/pages",source_app="productpage",source_version="v1",'
        'source_cluster="Kubernetes",destination_workload="reviews-v2",destination_workload_namespace="default",'
        'destination_principal="unknown",destination_app="reviews",destination_version="v2",'
        'destination_service="reviews.default.svc.cluster.local",destination_canonical_service="reviews",'
        'destination_canonical_revision="v2",destination_service_name="reviews",destination_service_namespace="default",'
        'destination_cluster="Kubernetes",request_protocol="http",response_code="200",grpc_response_status="",'
        'response_flags="-",connection_security_policy="unknown"} 1'
    )


def test_what_is_not_known_is_unknown() -> None:
    """An unknown revision is `latest`."""
    found = dict(
        zip(LABELS, labels(Reporter.DESTINATION, Workload(cluster=""), Workload(), "http", 200, "", "-", True), strict=True)
    )
    assert found["source_workload"] == found["source_cluster"] == found["destination_service"] == "unknown"
    assert found["source_canonical_revision"] == "latest"
    assert found["source_version"] == "unknown"


@pytest.mark.parametrize(
    ("reporter", "secured", "policy"),
    [
        (Reporter.SOURCE, None, "unknown"),
        (Reporter.SOURCE, True, "unknown"),
        (Reporter.DESTINATION, True, "mutual_tls"),
        (Reporter.DESTINATION, False, "none"),
    ],
)
def test_only_the_destination_tells_about_security(reporter: Reporter, secured: bool | None, policy: str) -> None:
    """connection_security_policy, as in Istio."""
    assert labels(reporter, SOURCE, DESTINATION, "http", 200, "", "-", secured)[-1] == policy


def test_the_bounds_of_buckets_are_inclusive() -> None:
    """Prometheus: le means less or equal; buckets are cumulative."""
    metrics = RequestMetrics()
    for milliseconds in (0.5, 0.51, 3_600_000, 3_600_001):
        metrics(event(duration=milliseconds / 1000, bytes_received=10, bytes_sent=11))
    found = samples(metrics)
    duration = {le: value for (name, le), value in found.items() if name == "istio_request_duration_milliseconds_bucket"}
    assert (duration["0.5"], duration["1"], duration["3600000"], duration["+Inf"]) == (1, 2, 3, 4)
    assert found["istio_request_duration_milliseconds_count", ""] == 4
    assert found["istio_request_duration_milliseconds_sum", ""] == pytest.approx(7_200_002.01)
    assert found["istio_request_bytes_bucket", "10"] == 4
    assert found["istio_response_bytes_bucket", "10"] == 0
    assert found["istio_response_bytes_sum", ""] == 44


@given(st.text(), st.text())
def test_any_text_is_a_label(flags: str, workload: str) -> None:
    """Quotes, backslashes and line ends are escaped: a peer's name cannot forge a line, and is read back as told."""
    metrics = RequestMetrics()
    metrics(event(flags=flags, source=SOURCE._replace(workload=workload)))
    text = exposition(metrics.snapshot())
    (line,) = [line for line in text.split("\n") if line.startswith("istio_requests_total{")]
    unescape = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
    told = re.search(r'response_flags="((?:[^"\\]|\\.)*)",connection', line, re.DOTALL)
    assert told is not None
    assert re.sub(r'\\[\\"n]', lambda escape: unescape[escape[0]], told[1]) == flags


def test_messages_of_calls() -> None:
    """Counted for gRPC and shown for gRPC only."""
    metrics = RequestMetrics()
    metrics(event())
    assert "messages_total" not in exposition(metrics.snapshot())
    for _ in range(2):
        metrics(event(request_protocol="grpc", grpc_status="0", request_messages=2, response_messages=3))
    lines = [line for line in exposition(metrics.snapshot()).splitlines() if "messages_total{" in line]
    assert [(line.partition("{")[0], line.rpartition(" ")[2]) for line in lines] == [
        ("istio_request_messages_total", "4"),
        ("istio_response_messages_total", "6"),
    ]
    assert all('request_protocol="grpc"' in line and 'grpc_response_status="0"' in line for line in lines)


def test_policies_on_trial() -> None:
    """A counter for each port, named and labelled as that of Istio's Envoy; nothing where no policy is on trial."""
    metrics = RequestMetrics()
    metrics(event())
    assert "_rbac" not in exposition(metrics.snapshot())
    trials = (DryRun("deny", "denied", "p"), DryRun("allow", "allowed", "q"))
    for _ in range(2):
        metrics(event(reporter=Reporter.DESTINATION, local_address="10.0.0.2:9080", dry_runs=trials))
    metrics(event(reporter=Reporter.DESTINATION, local_address="[::1]:9081", dry_runs=trials[:1]))
    lines = [line for line in exposition(metrics.snapshot()).splitlines() if "_rbac" in line and not line.startswith("# HELP")]
    assert lines == [
        "# TYPE envoy_http_inbound_0_0_0_0_9080_rbac counter",
        'envoy_http_inbound_0_0_0_0_9080_rbac{authz_dry_run_action="deny",authz_dry_run_result="denied"} 2',
        'envoy_http_inbound_0_0_0_0_9080_rbac{authz_dry_run_action="allow",authz_dry_run_result="allowed"} 2',
        "# TYPE envoy_http_inbound_0_0_0_0_9081_rbac counter",
        'envoy_http_inbound_0_0_0_0_9081_rbac{authz_dry_run_action="deny",authz_dry_run_result="denied"} 1',
    ]


def test_labels_keep_requests_apart() -> None:
    """Status, flags and both sides."""
    metrics = RequestMetrics()
    for fields in ({}, {"status": 500}, {"flags": "UT"}, {"source": DESTINATION}, {"reporter": Reporter.DESTINATION}, {}):
        metrics(event(**fields))
    assert sorted(cell[0] for cell in metrics.snapshot().values()) == [1, 1, 1, 1, 2]


def test_made_up_names_cannot_fill_the_memory() -> None:
    """Beyond the limit they are counted together."""
    metrics = RequestMetrics(limit=2)
    for number in range(100):
        metrics(event(source=Workload(str(number))))
    counted = {key[1]: cell[0] for key, cell in metrics.snapshot().items()}
    assert counted == {"0": 1, "1": 1, "other": 98}


def test_no_request_is_lost_between_threads() -> None:
    """Workers with threads count together."""
    metrics = RequestMetrics()
    threads = [threading.Thread(target=lambda: [metrics(event()) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (cell,) = metrics.snapshot().values()
    assert cell[0] == 8000


def rows(labels: int, numbers: int) -> st.SearchStrategy[dict[tuple[str, ...], tuple[float, ...]]]:
    cells = st.lists(st.integers(0, 2**53), min_size=numbers, max_size=numbers).map(tuple)
    return st.dictionaries(st.tuples(*[st.text(max_size=3)] * labels), cells, max_size=3)


snapshots = st.builds(operator.or_, rows(len(LABELS), CELL), rows(len(DRY_RUN_LABELS), 1))


@given(snapshots)
def test_a_snapshot_survives_the_way_to_another_process(snapshot: dict[tuple[str, ...], tuple[float, ...]]) -> None:
    """Encode and decode are opposites."""
    assert decode(encode(snapshot)) == snapshot


@given(snapshots, snapshots)
def test_merging_adds(one: dict[tuple[str, ...], tuple[float, ...]], two: dict[tuple[str, ...], tuple[float, ...]]) -> None:
    """Nothing is lost, the order does not matter."""
    merged = merge([one, two])
    assert merged == merge([two, one])
    assert sum(cell[0] for cell in merged.values()) == sum(cell[0] for cell in (*one.values(), *two.values()))


@pytest.mark.parametrize("data", [b"", b"{", b'[[["a"], [1]]]', b"[1]", b"[[1, 2]]", b"\xff"])
def test_a_broken_snapshot_is_a_value_error(data: bytes) -> None:
    """Another version's worker, or a torn file."""
    with pytest.raises(ValueError):  # noqa: PT011  the parser's own words differ
        decode(data)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # other tests may have left threads
def test_a_forked_child_begins_at_zero() -> None:
    """What the parent counted, the parent tells."""
    metrics = RequestMetrics()
    metrics(event(peer=Peer()))
    pid = os.fork()
    if pid == 0:
        os._exit(len(metrics.snapshot()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(metrics.snapshot()) == 1


def test_buckets_are_sorted() -> None:
    """The search for a bucket relies on it."""
    assert list(BUCKETS) == sorted(BUCKETS)
