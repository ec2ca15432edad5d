"""A real Prometheus scrapes real processes: two workers of one instance, one stats address."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port

pytestmark = [pytest.mark.prometheus, pytest.mark.e2e]

SERVICE = Path(__file__).parent / "programs" / "counting.py"

CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
- job_name: mesh
  metrics_path: /stats/prometheus
  static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture(scope="module")
def binary() -> str:
    """Debian's prometheus; a missing one in continuous integration is a failure."""
    found = shutil.which("prometheus")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("needs Debian's prometheus")
    if found is None:
        pytest.skip("needs Debian's prometheus")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prometheus")


@pytest.fixture(scope="module")
def stats_address(folder: Path) -> Iterator[str]:
    """A running service with two workers."""
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen([sys.executable, str(SERVICE), address, str(folder)], start_new_session=True) as service:
        yield address
        os.killpg(service.pid, 9)


@pytest.fixture(scope="module")
def prometheus(binary: str, stats_address: str, folder: Path) -> Iterator[str]:
    """Where a Prometheus that scrapes the service answers."""
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(target=stats_address))
    address = f"127.0.0.1:{free_port()}"
    options = (
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={address}",
        "--log.level=warn",
    )
    with subprocess.Popen([binary, *options], cwd=folder) as server:
        yield f"http://{address}"
        server.terminate()


def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """An instant query; nothing while Prometheus starts."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return result
    except (OSError, urllib.error.URLError):
        return []


def total(prometheus: str, expression: str) -> float:
    """The value of a query with one result; 0 before there is one."""
    return sum(float(row["value"][1]) for row in query(prometheus, expression))


def wait_for(prometheus: str, expression: str, value: float) -> None:
    """Waits until a query gives a value."""
    end = time.monotonic() + 30
    while total(prometheus, expression) != value:
        assert time.monotonic() < end, f"{expression} is {query(prometheus, expression)} and not {value}"
        time.sleep(0.1)


def test_prometheus_reads_istios_metrics(prometheus: str) -> None:
    """Both workers on one page; Istio's names and labels, so that dashboards made for Istio work."""
    wait_for(prometheus, 'sum(istio_requests_total{reporter="destination"})', 40)
    (inbound,) = query(prometheus, 'istio_requests_total{reporter="destination"}')
    assert (
        inbound["metric"].items()
        >= {
            "source_workload": "productpage-v1",
            "source_canonical_service": "productpage",
            "source_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
            "source_version": "v1",
            "destination_workload": "reviews-v2",
            "destination_service": "reviews.default.svc.cluster.local",
            "destination_service_name": "reviews",
            "destination_service_namespace": "default",
            "destination_canonical_revision": "v2",
            "destination_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-reviews",
            "request_protocol": "http",
            "response_code": "200",
            "response_flags": "-",
            "connection_security_policy": "mutual_tls",
        }.items()
    )
    (outbound,) = query(prometheus, 'istio_requests_total{reporter="source"}')
    assert outbound["value"][1] == "20"
    assert (
        outbound["metric"].items()
        >= {
            "source_workload": "reviews-v2",
            "destination_workload": "ratings-v1",
            "destination_service": "ratings.default.svc.cluster.local",
            "response_code": "503",
            "response_flags": "UF",
            "connection_security_policy": "unknown",
        }.items()
    )


def test_prometheus_reads_histograms(prometheus: str) -> None:
    """histogram_quantile, as Istio's dashboards use it, has something to work on."""
    wait_for(prometheus, 'sum(istio_request_duration_milliseconds_count{reporter="destination"})', 40)
    assert total(prometheus, 'sum(istio_request_duration_milliseconds_bucket{reporter="destination", le="+Inf"})') == 40
    by_bound = 'sum by (le) (istio_request_duration_milliseconds_bucket{reporter="destination"})'
    assert 0 < total(prometheus, f"histogram_quantile(0.5, {by_bound})") < 1000
    assert total(prometheus, 'sum(istio_response_bytes_count{reporter="source"})') == 20
