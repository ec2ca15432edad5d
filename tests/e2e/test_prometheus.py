"""A real Prometheus scrapes a real mesh: Istio's task "Querying Metrics", with Istio's names and labels."""

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

from tests.support.cluster import HOST, Cluster, answers
from tests.support.ports import free_port

pytestmark = [pytest.mark.prometheus, pytest.mark.e2e]

PROGRAMS = Path(__file__).parent / "programs"
REQUESTS = 60
CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
- job_name: mesh
  metrics_path: /stats/prometheus
  static_configs: [{{targets: ["{front}", "{httpbin}"]}}]
"""
OK = 'response_code="200"'


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
def stats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Stats addresses of httpbin and of a front with three workers, after the front has been asked `REQUESTS` times."""
    cluster = Cluster(tmp_path_factory.mktemp("metrics"))
    addresses = {name: f"{HOST}:{free_port()}" for name in ("front", "httpbin")}
    port = free_port()
    servers = {
        "httpbin": ("uvicorn", "httpbin:app", "--port", "0", "--log-level", "warning"),
        "front": ("gunicorn", "-w", "3", "-b", f"{HOST}:{port}", "relay:app"),
    }
    try:
        cluster.start_control_plane()
        for name, command in servers.items():
            options = ("--port", "8000", "--label", f"app={name}", "--label", "version=v2")
            env = {"MESHLIB_STATS_ADDRESS": addresses[name]}
            cluster.join(name, name, (sys.executable, "-m", *command), *options, env=env, folder=PROGRAMS)
        cluster.wait_for("httpbin", "front")
        assert all(answers(f"http://{HOST}:{port}/relay") for _ in range(REQUESTS))
        yield addresses
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def prometheus(binary: str, stats: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a Prometheus that scrapes both services answers."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(**stats))
    address = f"{HOST}:{free_port()}"
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


def only(prometheus: str, expression: str) -> dict[str, str]:
    """The labels of a query's one result, all workers of an instance being one target."""
    (row,) = query(prometheus, expression)
    labels: dict[str, str] = row["metric"]
    return labels


EDGE = {
    "source_workload": "front-v2",
    "source_canonical_service": "front",
    "source_principal": "spiffe://cluster.local/ns/default/sa/front",
    "source_version": "v2",
    "destination_workload": "httpbin-v2",
    "destination_service": "httpbin.default.svc.cluster.local",
    "destination_service_name": "httpbin",
    "destination_service_namespace": "default",
    "destination_canonical_revision": "v2",
    "destination_principal": "spiffe://cluster.local/ns/default/sa/httpbin",
    "request_protocol": "http",
    "response_code": "200",
    "response_flags": "-",
}


def test_every_request_is_counted_once_on_each_side(prometheus: str) -> None:
    """The sum over three forked workers of the client is what was sent, and so is the server's; with all labels."""
    told = f'istio_requests_total{{destination_service="httpbin.default.svc.cluster.local",{OK},reporter='
    wait_for(prometheus, f'{told}"source"}}', REQUESTS)
    wait_for(prometheus, f'{told}"destination"}}', REQUESTS)
    assert only(prometheus, f'{told}"source"}}').items() >= (EDGE | {"connection_security_policy": "unknown"}).items()
    assert only(prometheus, f'{told}"destination"}}').items() >= (EDGE | {"connection_security_policy": "mutual_tls"}).items()


def test_plain_text_from_outside_is_told_as_such(prometheus: str) -> None:
    """Who asked the front is unknown: it is no member."""
    told = f'istio_requests_total{{destination_service_name="front",{OK},reporter="destination"}}'
    wait_for(prometheus, told, REQUESTS)
    labels = only(prometheus, told)
    assert (labels["source_workload"], labels["connection_security_policy"]) == ("unknown", "none")


def test_histograms_can_be_computed_with(prometheus: str) -> None:
    """histogram_quantile, as Istio's dashboards use it, has something to work on."""
    mine = 'destination_service_name="httpbin",reporter="destination"'
    wait_for(prometheus, f"istio_request_duration_milliseconds_count{{{mine}}}", REQUESTS)
    assert total(prometheus, f'istio_request_duration_milliseconds_bucket{{{mine},le="+Inf"}}') == REQUESTS
    by_bound = f"sum by (le) (istio_request_duration_milliseconds_bucket{{{mine}}})"
    assert 0 < total(prometheus, f"histogram_quantile(0.5, {by_bound})") < 1000
    assert total(prometheus, f"istio_response_bytes_count{{{mine}}}") == REQUESTS
