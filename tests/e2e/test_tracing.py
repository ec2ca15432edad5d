"""One request of a person is one trace over four services, although none of them handles a trace header."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster, Page, eventually

pytestmark = pytest.mark.e2e


def spans(cluster: Cluster, trace: str) -> list[dict[str, str]]:
    """All spans of a trace that have ended by now."""
    file = Path(cluster.env["SPANS"])
    lines = (json.loads(line) for line in file.read_text().splitlines()) if file.exists() else ()
    return [span for span in lines if span["trace"] == trace]


def test_one_trace_over_four_services(bookinfo: Cluster, networking: Path, site: str) -> None:
    """Server and client spans of productpage, details, reviews and ratings hang together below the caller's own span."""
    bookinfo.apply(networking / "destination-rule-all.yaml", networking / "virtual-service-reviews-v3.yaml")
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    httpx.get(f"{site}/productpage", headers={"traceparent": f"00-{trace}-{caller}-01"}, timeout=10)

    def servers() -> set[str]:
        return {span["service"] for span in spans(bookinfo, trace) if span["kind"] == "SERVER"}

    eventually(lambda: servers() == {"productpage", "details", "reviews", "ratings"}, "four server spans")
    by_id = {span["span"]: span for span in spans(bookinfo, trace)}
    (root,) = [span for span in by_id.values() if span["parent"] not in by_id]
    assert root["parent"] == caller
    assert root["service"] == "productpage"
    # Recent FastAPI adds spans of its own, of kind INTERNAL; they hang below ours and are none of the mesh's business.
    ours = [span for span in by_id.values() if span is not root and span["kind"] != "INTERNAL"]
    chain = {(span["service"], span["kind"], by_id[span["parent"]]["service"]) for span in ours}
    assert chain == {
        ("productpage", "CLIENT", "productpage"),
        ("details", "SERVER", "productpage"),
        ("reviews", "SERVER", "productpage"),
        ("reviews", "CLIENT", "reviews"),
        ("ratings", "SERVER", "reviews"),
    }


def test_without_a_caller_the_page_begins_the_trace(bookinfo: Cluster, visit: Callable[..., Page]) -> None:
    """A person's browser sends no trace header: productpage makes the root."""
    file = Path(bookinfo.env["SPANS"])
    before = len(file.read_text().splitlines()) if file.exists() else 0
    visit()

    def new_roots() -> list[dict[str, str]]:
        lines = [json.loads(line) for line in file.read_text().splitlines()[before:]] if file.exists() else []
        return [span for span in lines if not span["parent"]]

    eventually(lambda: bool(new_roots()), "a root span")
    assert {(span["service"], span["kind"]) for span in new_roots()} == {("productpage", "SERVER")}
