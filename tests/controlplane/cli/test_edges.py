"""`meshlib edges`: who talks to whom, and whether it is secured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshlib_control.serve import ControlPlane
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER
from tests.controlplane.cli.test_pc import HOST, connected, wait
from tests.support.envoy_sidecar import Plane

ALL = f"outbound|9080||{HOST}"

PLAIN = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}
"""


def listed(meshlib: Any, *more: str) -> list[dict[str, Any]]:
    result = meshlib("edges", "-o", "json", *more)
    assert result.code == 0, result.err
    return list(json.loads(result.out)["items"])


@pytest.mark.usefixtures("plane")
def test_without_clients_there_are_no_edges(meshlib):
    """And a sentence says so."""
    result = meshlib("edges")
    assert (result.code, result.out, result.err) == (0, "", "Nobody has called anybody yet.\n")


def test_a_client_that_follows_a_service_talks_to_it(meshlib, plane: ControlPlane):
    """Over mutual TLS, until a rule says otherwise."""
    with connected(plane) as client:
        client.accept(client.ask(LISTENER, "nowhere:1"))
        wait(lambda: any(row["name"] == "reviews-v1" for row in Plane.of(plane).ask("/v1/proxies")["items"]))
        assert listed(meshlib) == []
        client.accept(client.ask(CLUSTER, ALL))
        client.accept(client.ask(ENDPOINT, ALL))
        wait(lambda: listed(meshlib) != [] and listed(meshlib)[0]["endpoints"] == 1)
        (edge,) = listed(meshlib)
        assert edge["service"] == {"host": HOST, "port": 9080}
        assert edge["client"]["identity"] == "spiffe://cluster.local/ns/default/sa/reviews"
        assert (edge["endpoints"], edge["secured"], edge["security"]) == (1, 1, "mutual TLS")
        assert "reviews.default:9080" in meshlib("edges").out
        assert listed(meshlib, "-n", "shop") == []

        Plane.of(plane).apply(PLAIN)
        client.accept(client.told())
        wait(lambda: listed(meshlib)[0]["security"] == "plain text")
