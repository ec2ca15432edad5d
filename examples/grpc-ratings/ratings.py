"""Stars that reviewers gave, over gRPC. Ordinary grpcio and httpx; it knows of no mesh.

The stars themselves are kept by an HTTP service, Bookinfo's own `ratings`, which runs here under the name `stars`. Messages
are JSON, so that the example needs no generated code; with stubs made by protoc nothing else would change.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx

ADDRESS = os.environ.get("RATINGS_ADDRESS", "[::]:9080")
STARS = os.environ.get("STARS_URL", "http://stars:9080/ratings")

http = httpx.Client(timeout=5.0)


def get(request: dict[str, Any], context: grpc.ServicerContext) -> dict[str, Any]:
    """The stars of a book. UNAVAILABLE if whoever keeps them does not answer."""
    try:
        response = http.get(f"{STARS}/{request['product']}")
        response.raise_for_status()
    except httpx.HTTPError as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, f"no stars: {error}")
    stars: dict[str, Any] = response.json()
    return stars


def encode(message: dict[str, Any]) -> bytes:
    """A message as bytes."""
    return json.dumps(message).encode()


def main() -> None:
    """Serve until the process ends."""
    methods = {"Get": grpc.unary_unary_rpc_method_handler(get, json.loads, encode)}
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bookinfo.Ratings", methods),))
    server.add_insecure_port(ADDRESS)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
