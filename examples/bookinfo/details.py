"""Facts about a book. Ordinary FastAPI; it knows of no mesh."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI(title="details")


@app.get("/health")
def health() -> dict[str, str]:
    """Liveness, for whoever starts this program."""
    return {"status": "Details is healthy"}


@app.get("/details/{product}")
def details(product: int) -> dict[str, str | int]:
    """The facts; every book has the same."""
    return {
        "id": product,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }
