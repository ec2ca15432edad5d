"""An ordinary gRPC client: calls One of TARGET once. `grpcask.py TARGET NAME=VALUE...` prints `[CODE, TEXT]`."""

from __future__ import annotations

import json
import sys

import grpc

metadata = [tuple(pair.split("=", 1)) for pair in sys.argv[2:]]
with grpc.insecure_channel(sys.argv[1]) as channel:
    grpc.channel_ready_future(channel).result(timeout=30)
    try:
        answer = channel.unary_unary("/test.Echo/One")(b"hello", metadata=metadata, timeout=20)
        print(json.dumps(["OK", json.loads(answer)["request"]]))
    except grpc.RpcError as error:
        print(json.dumps([error.code().name, error.details()]))
