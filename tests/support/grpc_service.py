"""A gRPC service as a process: `python grpc_service.py native|engine|plain ADDRESS`, a member of the mesh by its environment.

Every method of every service answers with JSON: who answered, what arrived, from whom, the how manieth try it was.
Metadata tells it what to do: `x-sleep: 3` takes 3 seconds; `x-fail: UNAVAILABLE` fails with that code, with `x-fail-first: 2`
only the first two tries of the calls that share an `x-key`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import meshlib


class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no type information
    """Answers any unary method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tries = Counter[str]()

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            key = metadata.get("x-key", "")
            self.tries[key] += 1
            time.sleep(float(metadata.get("x-sleep", 0)))
            if metadata.get("x-fail") and self.tries[key] <= int(metadata.get("x-fail-first", 1_000_000)):
                context.abort(grpc.StatusCode[metadata["x-fail"]], f"try {self.tries[key]} at {self.name}")
            found = {"who": self.name, "method": details.method, "tries": self.tries[key], "peer": caller(context)}
            return json.dumps({**found, "metadata": metadata}).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def caller(context: Any) -> str:
    """The SPIFFE id of who calls; empty: plain text."""
    for value in context.auth_context().get("peer_spiffe_id", ()):
        return str(value.decode())
    known = meshlib.peer()
    return known.spiffe_id if known is not None else ""


def main(engine: str, address: str) -> None:
    pool = ThreadPoolExecutor(8)
    handlers = [Everything(os.environ.get("MESHLIB_INSTANCE", "plain"))]
    if engine == "native":
        from meshlib_grpc import native

        server = native.server(address, pool, handlers=handlers)
    elif engine == "engine":
        import meshlib_grpc

        server = grpc.server(pool, handlers, interceptors=[meshlib_grpc.server_interceptor()])
        meshlib_grpc.add_port(server, address)
    else:
        server = grpc.server(pool, handlers)
        server.add_insecure_port(address)
    server.start()
    print("started", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
