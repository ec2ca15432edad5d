"""Names and the one lookup that every request makes."""

import pytest

from meshlib.config.model import RouteConfiguration
from meshlib.config.snapshot import ABSENT, EMPTY, Destination, Snapshot, listener_name

REVIEWS = Destination("reviews:9080", RouteConfiguration("r", ()), {}, {})


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("reviews", "reviews:80"),
        ("Reviews:9080", "reviews:9080"),
        ("reviews.default.svc.cluster.local.:9080", "reviews.default.svc.cluster.local:9080"),
        ("reviews:", "reviews:80"),
        ("10.0.0.1:80", None),
        ("127.1", None),
        ("[::1]:80", None),
        ("[fe80::1]", None),
        ("localhost", None),
        ("LOCALHOST:9080", None),
        ("app.localhost:80", None),
        ("", None),
        (":80", None),
    ],
)
def test_authority_becomes_listener_name(authority: str, name: str | None) -> None:
    """Lower case, with a port; addresses and localhost are never asked for."""
    assert listener_name(authority) == name


def test_lookup_knows_three_answers() -> None:
    """A destination, not in the mesh, or nobody asked yet."""
    snapshot = Snapshot(destinations={"reviews:9080": REVIEWS}, absent=frozenset({"example.com:80"}))
    assert snapshot.destination("reviews:9080") is REVIEWS
    assert snapshot.destination("REVIEWS:9080") is REVIEWS
    assert snapshot.destination("example.com") is ABSENT
    assert snapshot.destination("ratings:9080") is None


def test_addresses_are_absent_before_anything_is_known() -> None:
    """An IP literal needs no control plane."""
    assert EMPTY.destination("127.0.0.1:9080") is ABSENT
    assert EMPTY.destination("reviews:9080") is None
