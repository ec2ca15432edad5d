"""A gRPC service as a process: `python grpc_service.py native|engine|plain ADDRESS`, a member of the mesh by its environment.

Every method of every service answers with JSON: who answered, what arrived, how often this process was called.
`x-fail: UNAVAILABLE` makes a call fail with that code, `x-sleep: 3` makes it take 3 seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no type information
    """Answers any unary method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            self.calls += 1
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            time.sleep(float(metadata.get("x-sleep", 0)))
            if code := metadata.get("x-fail"):
                context.abort(grpc.StatusCode[code], f"{self.name} was told to, call {self.calls}")
            peer = [value.decode() for value in context.auth_context().get("peer_spiffe_id", ())]
            found = {"who": self.name, "method": details.method, "calls": self.calls, "peer": peer, "metadata": metadata}
            return json.dumps(found).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


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
