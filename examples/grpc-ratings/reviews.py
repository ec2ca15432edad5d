"""What readers think of a book, with stars asked for over gRPC. Ordinary FastAPI and grpc.aio; it knows of no mesh."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from fastapi import FastAPI, Request

RATINGS = os.environ.get("RATINGS_TARGET", "ratings:9080")
TIMEOUT = float(os.environ.get("RATINGS_TIMEOUT", "5"))  # seconds

REVIEWERS = ("Reviewer1", "Reviewer2")


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return json.dumps(message).encode()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """One channel for the life of the server."""
    async with grpc.aio.insecure_channel(RATINGS) as channel:
        yield {"ratings": channel.unary_unary("/bookinfo.Ratings/Get", encode, json.loads)}


app = FastAPI(title="reviews", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    """Liveness, for whoever starts this program."""
    return {"status": "Reviews is healthy"}


@app.get("/reviews/{product}")
async def reviews(product: int, request: Request) -> dict[str, Any]:
    """The stars by reviewer; in their place the status, if ratings does not answer."""
    try:
        answer = await request.state.ratings({"product": product}, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return {"id": product, "error": error.code().name, "details": error.details()}
    return {"id": product, "reviews": {reviewer: answer["ratings"].get(reviewer) for reviewer in REVIEWERS}}
