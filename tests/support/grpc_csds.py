"""A gRPC program that tells what its xDS client holds: `python grpc_csds.py sync|aio ADDRESS TARGET...`.

Each line of its stdin makes it call every target once; it answers with a line, the codes as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from meshlib_grpc import native


def code(call: Any) -> str:
    try:
        call(b"", timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def call_all(targets: list[str]) -> None:
    methods = [native.channel(target).unary_unary("/test.Any/Say") for target in targets]
    for _ in sys.stdin:
        print(json.dumps([code(method) for method in methods]), flush=True)


def main(address: str, targets: list[str]) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    native.add_csds_servicer(server)
    server.add_insecure_port(address)
    server.start()
    call_all(targets)


async def aio_main(address: str, targets: list[str]) -> None:
    server = grpc.aio.server()
    native.add_csds_servicer(server)
    server.add_insecure_port(address)
    await server.start()
    await asyncio.to_thread(call_all, targets)


if __name__ == "__main__":
    mode, where, *whom = sys.argv[1:]
    if mode == "sync":
        main(where, whom)
    else:
        asyncio.run(aio_main(where, whom))
