"""Reviews as gunicorn would fork it, without sockets: both workers are asked by productpage, the child also asks ratings.

counting.py STATS_ADDRESS FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from meshlib.config.model import Endpoint
from meshlib.facts import Peer, Request
from meshlib.runtime.stats import StatsServer
from meshlib.telemetry import Telemetry, local_workload

PAGES = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage"
RATINGS = Endpoint("127.0.0.1", 9080, workload="ratings-v1", namespace="default", labels={"app": "ratings", "version": "v1"})


def serve(reviews: Telemetry, productpage: Telemetry, ask: bool) -> None:
    """One request of productpage; reviews asks ratings, which is down."""
    sent = productpage.outbound(Request("GET", "http", "reviews:9080", "/reviews/0"))
    request = Request("GET", "http", "reviews:9080", "/reviews/0", (*sent.headers, *sent.mesh_headers))
    record = reviews.inbound(request, Peer(PAGES, "127.0.0.1:4000"))
    if ask:
        asked = reviews.outbound(Request("GET", "http", "ratings:9080", "/ratings/0"))
        cluster = "outbound|9080||ratings.default.svc.cluster.local"
        asked.end(asked.event(status=503, flags="UF", endpoint=RATINGS, cluster=cluster))
    record.end(record.event(status=200, local_address="127.0.0.1:9080"))
    record.close()


def main(address: str, folder: str) -> None:
    """Fork, count, and tell until killed."""
    child = os.fork() == 0
    reviews = Telemetry(local_workload(service="reviews", namespace="default", labels={"app": "reviews", "version": "v2"}))
    reviews.identify("spiffe://cluster.local/ns/default/sa/bookinfo-reviews")
    StatsServer(address, reviews.metrics, "reviews-v2", Path(folder)).start()
    productpage = Telemetry(local_workload(service="productpage", namespace="default", labels={"version": "v1"}))
    productpage.identify(PAGES)
    for _ in range(20):
        serve(reviews, productpage, ask=child)
    signal.pause()


main(*sys.argv[1:])
