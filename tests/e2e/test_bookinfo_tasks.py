"""Istio's documentation tasks on Bookinfo, with Istio's unmodified files where it has one for the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import REPOSITORY, Cluster, Page

pytestmark = pytest.mark.e2e

OWN = REPOSITORY / "examples" / "bookinfo" / "networking"
UNAVAILABLE = "Sorry, product reviews are currently unavailable for this book."
Visit = Callable[..., Page]


def versions(site: str, requests: int) -> Counter[str]:
    """Which version of reviews answered, over many requests, some at the same time."""
    with httpx.Client(base_url=site, timeout=30) as client, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: client.get("/api/v1/products/0/reviews").json(), range(requests))
        return Counter("-".join(answer["podname"].split("-")[:2]) for answer in answers)


def test_without_policy_the_versions_take_turns(bookinfo: Cluster, site: str) -> None:
    """All three versions of reviews get a share when no object says otherwise."""
    counts = versions(site, 90)
    assert set(counts) == {"reviews-v1", "reviews-v2", "reviews-v3"}
    assert min(counts.values()) > 10


def test_b1_request_routing(bookinfo: Cluster, networking: Path, visit: Visit) -> None:
    """Everybody sees v1; then jason, and only jason, sees black stars."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml")
    assert [visit().stars for _ in range(10)] == [set()] * 10

    bookinfo.apply(networking / "virtual-service-reviews-test-v2.yaml")
    assert [visit("jason").stars for _ in range(10)] == [{"black"}] * 10
    assert [visit(user).stars for user in ("", "tester", "jasons")] == [set()] * 3


def test_b2_delay(bookinfo: Cluster, networking: Path, visit: Visit) -> None:
    """A delay beyond the time-outs breaks jason's page after 6 s and nobody else's; a patient caller would be well."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml")
    bookinfo.apply(networking / "virtual-service-reviews-test-v2.yaml")
    bookinfo.apply(networking / "virtual-service-ratings-test-delay.yaml")

    jason = visit("jason")
    assert 5.5 < jason.seconds < 7.5
    assert "Error fetching product reviews!" in jason
    assert UNAVAILABLE in jason

    other = visit("")
    assert other.seconds < 1.5
    assert UNAVAILABLE not in other

    bookinfo.apply(networking / "virtual-service-reviews-v3.yaml")  # v3 gives ratings 2.5 s only
    fixed = visit("jason")
    assert 2.2 < fixed.seconds < 4.5
    assert "Ratings service is currently unavailable" in fixed


def test_b3_abort(bookinfo: Cluster, networking: Path, visit: Visit) -> None:
    """An abort reaches jason at once, as the sentence of reviews, and nobody else."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml")
    bookinfo.apply(networking / "virtual-service-reviews-test-v2.yaml")
    bookinfo.apply(networking / "virtual-service-ratings-test-abort.yaml")

    jason = visit("jason")
    assert jason.seconds < 1.5
    assert "Ratings service is currently unavailable" in jason
    assert "Ratings service" not in visit("")


def test_b4_traffic_shifting(bookinfo: Cluster, networking: Path, site: str) -> None:
    """Half of the requests see v3, within ten points; then all."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml")
    bookinfo.apply(networking / "virtual-service-reviews-50-v3.yaml")
    counts = versions(site, 300)
    assert set(counts) == {"reviews-v1", "reviews-v3"}
    assert 0.4 < counts["reviews-v3"] / 300 < 0.6

    bookinfo.apply(networking / "virtual-service-reviews-v3.yaml")
    assert set(versions(site, 60)) == {"reviews-v3"}


@pytest.mark.parametrize(("file", "share"), [("90-10", {"v1": 0.9, "v2": 0.1}), ("80-20", {"v1": 0.8, "v2": 0.2})])
def test_weights(bookinfo: Cluster, networking: Path, site: str, file: str, share: dict[str, float]) -> None:
    """Each version's part is its weight, within ten points."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / f"virtual-service-reviews-{file}.yaml")
    counts = versions(site, 250)
    assert {name.removeprefix("reviews-"): count / 250 for name, count in counts.items()} == pytest.approx(share, abs=0.1)


def test_b6_request_timeouts(bookinfo: Cluster, networking: Path, visit: Visit) -> None:
    """A time-out of 0.5 s on reviews turns a slow page with stars into a quick one without reviews."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-all-v1.yaml")
    bookinfo.apply_text((OWN / "virtual-service-reviews-timeout.yaml").read_text().replace("    timeout: 0.5s\n", ""))
    bookinfo.apply(OWN / "virtual-service-ratings-delay-2s.yaml")
    before = visit()
    assert 1.9 < before.seconds < 3.5
    assert before.stars == {"black"}

    bookinfo.apply(OWN / "virtual-service-reviews-timeout.yaml")
    after = visit()
    assert 0.9 < after.seconds < 2.0
    assert UNAVAILABLE in after
