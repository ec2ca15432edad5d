"""What counts as a disagreement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conformance.cases import Asked
from tests.conformance.echo import Arrival
from tests.conformance.seen import Seen
from tests.conformance.verdict import differences

ASKED = Asked("GET", 9080, "a:9080", "/")
TRY = Arrival(7001, "GET", "/", (("host", "a:9080"), ("x-a", "1"), ("x-envoy-attempt-count", "1")), 0)
SEEN = Seen(
    200,
    route="r0",
    cluster="outbound|9080||a",
    attempts=1,
    tries=(TRY,),
    endpoints=frozenset({("127.0.0.1", 7001, 1)}),
    headers=(("x-b", "2"),),
    body=b"hello",
)


def aspects(theirs: Seen, ours: Seen) -> list[str]:
    return [difference.aspect for difference in differences(ASKED, theirs, ours)]


@pytest.mark.parametrize(
    ("change", "aspect"),
    [
        ({"status": 503}, "status"),
        ({"flags": frozenset({"URX"})}, "flags"),
        ({"route": "r1"}, "route"),
        ({"attempts": 2}, "attempts"),
        ({"headers": ()}, "response headers"),
        ({"body": b""}, "response body"),
        ({"whole": False}, "response complete"),
        ({"tries": (replace(TRY, target="/b"),)}, "path of try 1"),
        ({"tries": (replace(TRY, headers=TRY.headers[:1]),)}, "headers of try 1"),
        ({"tries": (replace(TRY, port=7002),)}, "tries outside of the cluster"),
        ({"endpoints": SEEN.endpoints | {("127.0.0.1", 7003, 1)}}, "endpoints of the cluster"),
    ],
)
def test_each_aspect_counts(change: dict[str, object], aspect: str) -> None:
    """One thing changed is one disagreement."""
    assert aspect in aspects(SEEN, replace(SEEN, **change))
    assert aspects(SEEN, SEEN) == []


def test_a_try_that_was_sent_again_counts_once() -> None:
    """Its attempt count says that it is the same."""
    assert aspects(SEEN, replace(SEEN, tries=(TRY, TRY))) == []


def test_an_exception_stands_for_a_status() -> None:
    """Status and flags are compared, the words of Envoy's answer are not."""
    theirs = replace(SEEN, status=503, flags=frozenset({"UF"}), tries=(), body=b"upstream connect error", headers=())
    ours = replace(theirs, body=b"", raised=True)
    assert aspects(theirs, ours) == []
    assert aspects(theirs, replace(ours, flags=frozenset({"UC"}))) == ["flags"]
