"""Rate limits on Bookinfo: Istio's documentation task with its EnvoyFilters, our own RateLimit, a service in the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import redis_server
from tests.support.cluster import CLI, Cluster, free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

# The task's own limits, in years instead of minutes: no window ends while a test counts.
LIMITS = """\
domain: ratelimit
descriptors:
  - key: PATH
    value: "/productpage"
    rate_limit: {unit: year, requests_per_unit: 1}
  - key: PATH
    value: api
    rate_limit: {unit: year, requests_per_unit: 2}
  - key: PATH
    rate_limit: {unit: year, requests_per_unit: 100}
"""

# istio.io, Enabling Rate Limits using Envoy: at the page itself instead of a gateway before it.
GLOBAL = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-ratelimit, namespace: istio-system}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener:
          filterChain:
            filter:
              name: "envoy.filters.network.http_connection_manager"
              subFilter:
                name: "envoy.filters.http.router"
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.http.ratelimit
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
            domain: ratelimit
            failure_mode_deny: true
            timeout: 10s
            rate_limit_service:
              grpc_service:
                envoy_grpc:
                  cluster_name: outbound|8081||ratelimit.default.svc.cluster.local
                  authority: ratelimit.default.svc.cluster.local
              transport_api_version: V3
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-ratelimit-svc, namespace: istio-system}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
    - applyTo: VIRTUAL_HOST
      match:
        context: SIDECAR_INBOUND
        routeConfiguration:
          vhost: {name: "", route: {action: ANY}}
      patch:
        operation: MERGE
        value:
          rate_limits:
            - actions:
              - header_value_match:
                  descriptor_key: PATH
                  descriptor_value: "/productpage"
                  headers: [{name: ":path", string_match: {exact: /productpage}}]
            - actions:
              - header_value_match:
                  descriptor_key: PATH
                  descriptor_value: api
                  headers: [{name: ":path", string_match: {prefix: /api/v1/products}}]
"""

LOCAL = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-local-ratelimit-svc, namespace: istio-system}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener: {filterChain: {filter: {name: "envoy.filters.network.http_connection_manager"}}}
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.http.local_ratelimit
          typed_config:
            "@type": type.googleapis.com/udpa.type.v1.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value:
              stat_prefix: http_local_rate_limiter
              token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 6000s}
              filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
              filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
              response_headers_to_add:
                - append_action: OVERWRITE_IF_EXISTS_OR_ADD
                  header: {key: x-local-rate-limit, value: "true"}
"""

OURS = """
apiVersion: meshlib.dev/v1
kind: RateLimit
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: reviews}}
  match: {path: {prefix: /reviews/}}
  keys: [{peer: true}]
  local: {requests: 2, per: 1h}
"""


@pytest.fixture(scope="module")
def service(running_bookinfo: tuple[Cluster, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A rate limit service as a member of the mesh, counting in Redis; gives the folder of its limits."""
    if redis_server.binary() is None:
        pytest.skip("needs Debian's redis-server: sh scripts/debian.sh")
    cluster, _ = running_bookinfo
    folder = tmp_path_factory.mktemp("ratelimit")
    (folder / "limits").mkdir()
    (folder / "limits" / "config.yaml").write_text(LIMITS)
    with redis_server.running(folder) as redis:
        command = (*CLI, "ratelimit", "--config", str(folder / "limits"), "--address", f"127.0.0.1:{free_port()}")
        options = ("--port", "8081")
        cluster.join("ratelimit-1", "ratelimit", (*command, "--redis", redis), *options)
        cluster.wait_until_listed("ratelimit-1")
        yield folder / "limits"


def statuses(site: str, path: str, count: int) -> list[int]:
    with httpx.Client(base_url=site, timeout=30) as client:
        return [client.get(path).status_code for _ in range(count)]


def test_b30_global(bookinfo: Cluster, site: str, service: Path) -> None:
    """The page once, the API twice, each of its own count; the service is asked over mutual TLS."""
    bookinfo.apply_text(GLOBAL)
    assert statuses(site, "/productpage", 2) == [200, 429]
    assert statuses(site, "/api/v1/products", 3) == [200, 200, 429]
    refused = httpx.get(f"{site}/productpage")
    assert (refused.headers["x-envoy-ratelimited"], refused.text) == ("true", "")


def test_b30_local(bookinfo: Cluster, site: str) -> None:
    """Four get in, the fifth not."""
    bookinfo.apply_text(LOCAL)
    assert statuses(site, "/productpage", 5) == [200, 200, 200, 200, 429]
    refused = httpx.get(f"{site}/productpage")
    assert (refused.headers["x-local-rate-limit"], refused.text) == ("true", "local_rate_limited")


def test_an_update_of_something_else_fills_no_bucket(bookinfo: Cluster, site: str) -> None:
    """A bucket lives as long as the configuration says the same about it."""
    bookinfo.apply_text(LOCAL)
    assert statuses(site, "/productpage", 5)[-1] == 429
    bookinfo.apply_text(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d}\nspec: {mtls: {mode: PERMISSIVE}}"
    )
    assert statuses(site, "/productpage", 1) == [429]


def test_our_own_kind_counts_callers_by_their_identity(bookinfo: Cluster, site: str) -> None:
    """Two requests of productpage to each process of reviews; then reviews are missing from the page."""
    bookinfo.apply_text(OURS)
    found = statuses(site, "/api/v1/products/0/reviews", 12)
    assert found.count(200) == 6, found
    assert set(found) == {200, 429}


def test_without_the_service_what_the_filter_says(bookinfo: Cluster, site: str) -> None:
    """failure_mode_deny: 500; without it the page is open."""
    other = GLOBAL.replace("8081||ratelimit.", "8081||nobody.").replace("timeout: 10s", "timeout: 1s")
    bookinfo.apply_text(other)
    assert statuses(site, "/productpage", 1) == [500]
    bookinfo.apply_text(other.replace("failure_mode_deny: true", "failure_mode_deny: false"))
    eventually(lambda: statuses(site, "/productpage", 1) == [200], "the page opens")


def test_analyze_says_what_of_an_envoy_filter_does_nothing(bookinfo: Cluster, tmp_path: Path) -> None:
    """Another context, another filter, another operation."""
    (tmp_path / "filter.yaml").write_text(GLOBAL.replace("context: SIDECAR_INBOUND", "context: GATEWAY", 1))
    told = bookinfo.cli("analyze", str(tmp_path / "filter.yaml"), check=False)
    assert "GATEWAY is not effective yet: only requests that arrive are limited" in told.stdout + told.stderr
    assert "filter-ratelimit-svc" not in told.stdout
