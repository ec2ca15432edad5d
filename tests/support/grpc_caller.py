"""A gRPC client as a process: `python grpc_caller.py native|engine|plain sync|aio TARGET`, told by JSON lines what to call.

`plain` is gRPC without any mesh; `127.0.0.1:15001=reviews:9080` as its target is an address and the authority to ask it for.

    {"method": "/test.Reviews/Say", "metadata": {"end-user": "jason"}, "timeout": 5, "count": 1}

Each is answered with a line: a list with one entry a call, `{"code": "OK", "seconds": 0.01, ...what the service said}` or
`{"code": "ABORTED", "details": "...", "seconds": 0.01}`. A process of its own, because grpcio reads its bootstrap once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio

JSON = dict[str, Any]


def outcome(error: grpc.RpcError, started: float) -> JSON:
    return {"code": error.code().name, "details": error.details(), "seconds": time.monotonic() - started}


def answered(raw: bytes, started: float) -> JSON:
    return {"code": "OK", "seconds": time.monotonic() - started, **json.loads(raw)}


def arguments(order: JSON) -> JSON:
    return {"metadata": tuple(order.get("metadata", {}).items()), "timeout": order.get("timeout", 10)}


def sync_main(engine: str, target: str) -> None:
    channel = sync_channel(engine, target)
    for line in sys.stdin:
        order = json.loads(line)
        say = channel.unary_unary(order["method"])
        found = []
        for _ in range(order.get("count", 1)):
            started = time.monotonic()
            try:
                found.append(answered(say(b"", **arguments(order)), started))
            except grpc.RpcError as error:
                found.append(outcome(error, started))
        print(json.dumps(found), flush=True)


async def aio_main(engine: str, target: str) -> None:
    channel = aio_channel(engine, target)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        say = channel.unary_unary(order["method"])
        found = []
        for _ in range(order.get("count", 1)):
            started = time.monotonic()
            try:
                found.append(answered(await say(b"", **arguments(order)), started))
            except grpc.RpcError as error:
                found.append(outcome(error, started))
        print(json.dumps(found), flush=True)
    await channel.close()


def plain(target: str) -> tuple[str, list[tuple[str, str]]]:
    address, equals, authority = target.partition("=")
    return address, [("grpc.default_authority", authority)] if equals else []


def sync_channel(engine: str, target: str) -> Any:
    if engine == "plain":
        return grpc.insecure_channel(*plain(target))
    if engine == "native":
        from meshlib_grpc import native

        return native.channel(target)
    import meshlib_grpc

    return meshlib_grpc.channel(target)


def aio_channel(engine: str, target: str) -> Any:
    if engine == "plain":
        return grpc.aio.insecure_channel(*plain(target))
    if engine == "native":
        from meshlib_grpc import native

        return native.aio_channel(target)
    import meshlib_grpc.aio

    return meshlib_grpc.aio.channel(target)


if __name__ == "__main__":
    kind, mode, where = sys.argv[1:]
    if mode == "sync":
        sync_main(kind, where)
    else:
        asyncio.run(aio_main(kind, where))
