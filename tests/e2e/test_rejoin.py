"""A service outlives its join token: it renews its certificate, and comes back after the control plane was away."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshlib_control.tokens import open_issuer
from tests.support.cluster import Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"


def row(cluster: Cluster, name: str) -> dict[str, Any]:
    """An instance's line of `meshlib ps`; empty if it is not connected."""
    return next((found for found in cluster.ps() if found["name"] == name), {})


def expire(cluster: Cluster, command: tuple[str, ...]) -> None:
    """Puts the token that a day-old service would have into the token file.

    Waiting for a token of a few seconds takes longer than a minute: the control plane allows clocks to differ by one.
    """
    file = Path(command[command.index("--token-file") + 1])
    file.write_text(open_issuer(cluster.data).create("default", "httpbin", datetime.now(UTC) - timedelta(hours=25)))


def test_a_service_outlives_its_token(cluster: Cluster) -> None:
    """Its certificate is renewed with itself again and again, also by a control plane that was restarted meanwhile."""
    cluster.start_control_plane()
    server = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(free_port()), "--log-level", "warning")
    command = cluster.run_command("httpbin", server, "--port", "8000", "--instance", "httpbin")
    cluster.group.start("httpbin", command, cluster.env | {"MESHLIB_CERTIFICATE_LIFETIME": "4"}, PROGRAMS)
    cluster.wait_for("httpbin")
    expire(cluster, command)

    newcomer = (*command[: command.index("--")], "--strict", "--", sys.executable, "-c", "")
    refused = subprocess.run(newcomer, env=cluster.env, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "the token expired at" in refused.stderr
    assert "meshlib token create" in refused.stderr

    seen = {row(cluster, "httpbin")["certificateExpires"]}

    def renewed_twice() -> bool:
        seen.add(row(cluster, "httpbin")["certificateExpires"])
        return len(seen) >= 3

    eventually(renewed_twice, "two renewals")
    cluster.kill("controlplane")
    cluster.start_control_plane(name="controlplane-again")
    cluster.wait_for("httpbin")
    # A control plane knows only of the certificates that it issued since it was started.
    eventually(lambda: bool(row(cluster, "httpbin").get("certificateExpires")), "a renewal by the new one")


def test_a_service_joins_with_a_token_that_counts_once(cluster: Cluster) -> None:
    """One process needs one certificate from it; renewals are made with that one."""
    cluster.start_control_plane()
    server = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(free_port()), "--log-level", "warning")
    command = cluster.run_command("httpbin", server, "--port", "8000", "--instance", "httpbin")
    cluster.token("httpbin", "default", "--once")  # in place of the usual one
    cluster.group.start("httpbin", command, cluster.env | {"MESHLIB_CERTIFICATE_LIFETIME": "4"}, PROGRAMS)
    cluster.wait_until_listed("httpbin")
    seen = set[str]()

    def renewed_twice() -> bool:
        seen.add(row(cluster, "httpbin").get("certificateExpires", ""))
        return len(seen) >= 3

    eventually(renewed_twice, "two renewals")
