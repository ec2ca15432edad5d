"""The client status discovery service (CSDS) of grpcio's own xDS client: what it was sent, uses and has rejected.

grpcio hands out a serialized `ClientStatusResponse`, and this service sends the bytes as they are. (`grpcio-csds` does the
same with messages from xds-protos, which overwrites files of other packages.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"


def add(server: grpc.Server | grpc.aio.Server) -> None:
    """See `native.add_csds_servicer`."""
    fetch, stream = (_fetch_aio, _stream_aio) if isinstance(server, grpc.aio.Server) else (_fetch, _stream)
    methods = {
        "FetchClientStatus": grpc.unary_unary_rpc_method_handler(fetch),
        "StreamClientStatus": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


def _status() -> bytes:
    # The name is private and old: grpcio-csds is built on it.
    status: bytes = cygrpc.dump_xds_configs()
    return status


def _fetch(request: bytes, context: Any) -> bytes:
    return _status()


def _stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for _ in requests:
        yield _status()


async def _fetch_aio(request: bytes, context: Any) -> bytes:
    return _status()


async def _stream_aio(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield _status()
