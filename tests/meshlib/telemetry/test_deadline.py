"""The one deadline: read from a request, current while it is served, given to what it causes."""

from __future__ import annotations

import pytest

from meshlib.facts import Peer, Request
from meshlib.telemetry import deadline
from meshlib.telemetry.events import Workload
from meshlib.telemetry.records import Telemetry

NOW = 100.0


def telemetry() -> Telemetry:
    return Telemetry(Workload("reviews-v1"), clock=lambda: NOW)


def request(expected: str | None = None) -> Request:
    headers = () if expected is None else ((deadline.EXPECTED, expected),)
    return Request("GET", "http", "reviews:9080", "/", headers)


@pytest.mark.parametrize(
    ("expected", "patience", "until"),
    [
        (None, None, None),
        ("1500", None, NOW + 1.5),
        (None, 2.0, NOW + 2.0),
        ("1500", 2.0, NOW + 1.5),
        ("1500", 0.5, NOW + 0.5),
        ("0", None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("\u0661", None, None),
    ],
)
def test_of_an_incoming_request(expected: str | None, patience: float | None, until: float | None) -> None:
    """The earlier of what the protocol and the header say; 0 and nonsense are no limit. Only a gRPC call's binds HTTP."""
    record = telemetry().inbound(request(expected), Peer(), patience)
    assert record.until == until
    assert deadline.current() == until
    assert deadline.of_call() == (until if patience is not None else None)
    record.close()
    assert deadline.current() is None


def test_of_requests_within_requests() -> None:
    """What was current before is current again."""
    outer = telemetry().inbound(request("5000"), Peer())
    inner = telemetry().inbound(request("1000"), Peer())
    assert deadline.current() == NOW + 1
    inner.close()
    assert deadline.current() == NOW + 5
    outer.close()


def test_the_earlier() -> None:
    """None is never."""
    assert deadline.earlier(None, 1.0) == deadline.earlier(1.0, None) == deadline.earlier(2.0, 1.0) == 1.0
    assert deadline.earlier(None, None) is None
