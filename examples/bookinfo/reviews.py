"""What readers think of a book. Ordinary FastAPI and httpx; it knows of no mesh.

One program, three versions: without stars (v1), with black ones (v2, patient with ratings), with red ones (v3, impatient).
"""

from __future__ import annotations

import os
from typing import Any

import httpx
from fastapi import FastAPI

RATINGS = os.environ.get("RATINGS_URL", "http://ratings:9080/ratings")
VERSION = os.environ.get("REVIEWS_VERSION", "v1")
COLOR = {"v1": "", "v2": "black", "v3": "red"}[VERSION]
TIMEOUT = {"v1": 10.0, "v2": 10.0, "v3": 2.5}[VERSION]  # seconds

TEXTS = {
    "Reviewer1": "Mistaken twins, a lost chain and a locked door: I laughed until the interval. Shakespeare at his lightest!",
    "Reviewer2": "Great fun, though you want a map of who is whose brother. Less deep than the later plays.",
}

app = FastAPI(title="reviews")
http = httpx.AsyncClient(timeout=TIMEOUT)


@app.get("/health")
def health() -> dict[str, str]:
    """Liveness, for whoever starts this program."""
    return {"status": "Reviews is healthy"}


@app.get("/reviews/{product}")
async def reviews(product: int) -> dict[str, Any]:
    """The reviews of a book, with stars if this version shows them."""
    stars = await ask_ratings(product) if COLOR else None
    return {
        "id": str(product),
        "podname": os.environ.get("HOSTNAME", f"reviews-{VERSION}"),
        "clustername": os.environ.get("CLUSTER_NAME", "null"),
        "reviews": [review(reviewer, text, stars) for reviewer, text in TEXTS.items()],
    }


def review(reviewer: str, text: str, stars: dict[str, int] | None) -> dict[str, Any]:
    """One review. `stars` None: this version shows none; a reviewer missing in it: ratings did not answer."""
    entry: dict[str, Any] = {"reviewer": reviewer, "text": text}
    if stars is None:
        return entry
    if reviewer in stars:
        return entry | {"rating": {"stars": stars[reviewer], "color": COLOR}}
    return entry | {"rating": {"error": "Ratings service is currently unavailable"}}


async def ask_ratings(product: int) -> dict[str, int]:
    """Stars by reviewer; empty if ratings does not answer."""
    try:
        response = await http.get(f"{RATINGS}/{product}")
        response.raise_for_status()
    except httpx.HTTPError:
        return {}
    stars: dict[str, int] = response.json()["ratings"]
    return stars
