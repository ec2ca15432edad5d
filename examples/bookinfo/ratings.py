"""Stars that reviewers gave. Ordinary FastAPI; it knows of no mesh."""

from __future__ import annotations

from typing import Any

from fastapi import Body, FastAPI

app = FastAPI(title="ratings")
given: dict[int, dict[str, int]] = {}


@app.get("/health")
def health() -> dict[str, str]:
    """Liveness, for whoever starts this program."""
    return {"status": "Ratings is healthy"}


@app.get("/ratings/{product}")
def ratings(product: int) -> dict[str, Any]:
    """The stars of a book: those posted, or five and four."""
    return {"id": product, "ratings": given.get(product, {"Reviewer1": 5, "Reviewer2": 4})}


@app.post("/ratings/{product}")
def rate(product: int, stars: dict[str, int] = Body()) -> dict[str, Any]:  # noqa: B008  this is how FastAPI declares a body
    """Replaces the stars of a book until this process ends."""
    given[product] = stars
    return ratings(product)
