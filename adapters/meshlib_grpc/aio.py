"""meshlib for `grpc.aio`: the same three as in `meshlib_grpc`.

channel = meshlib_grpc.aio.channel("reviews:9080")
server = grpc.aio.server(interceptors=[meshlib_grpc.aio.server_interceptor()], options=meshlib_grpc.aio.SERVER_OPTIONS)
meshlib_grpc.aio.add_port(server, "[::]:9080")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from meshlib_grpc import _check_engine
from meshlib_grpc._convert import authority_of

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh
    from meshlib_grpc._lines import Options

SERVER_OPTIONS: Options = (
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
)
"""For `grpc.aio.server`: the core refuses bursts of more than 1,000 new calls at random otherwise."""


def channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    *,
    engine: str = "mesh",
    mesh: Mesh | None = None,
) -> grpc.aio.Channel:
    """A channel to a service: a `grpc.aio.Channel`.

    Args:
        target: `reviews:9080`. What is never in the mesh (IP addresses, `unix:`, ...) gets gRPC's own insecure channel.
        options, compression, interceptors: as for `grpc.aio.insecure_channel`.
        engine: `mesh`; `xds`: grpcio's own xDS client.
        mesh: None: the process's own, from `MESHLIB_*` in the environment.

    Raises:
        SettingsError: there is no such engine.
    """
    _check_engine(engine)
    if engine == "xds":
        from meshlib_grpc import native

        return native.aio_channel(target, options, compression, interceptors, mesh=mesh)
    from meshlib_grpc._originals import aio_insecure_channel
    from meshlib_grpc.aio_channel import MeshAioChannel

    authority = authority_of(target)
    if authority is None:
        return aio_insecure_channel(target, options, compression, interceptors)
    return MeshAioChannel(target, authority, options, compression, interceptors, mesh)


def server_interceptor(mesh: Mesh | None = None) -> grpc.aio.ServerInterceptor:
    """The request's side of a server: context, deadline, peer, admission, telemetry. Put it first.

    Args:
        mesh: None: the process's own.
    """
    from meshlib_grpc.aio_server import MeshAioInterceptor

    return MeshAioInterceptor(mesh)


def add_port(server: grpc.aio.Server, address: str, *, mesh: Mesh | None = None, reuse_port: bool = True) -> int:
    """As `meshlib_grpc.add_port`; everything runs in the event loop of `server.start()`."""
    from meshlib_grpc.port import add_aio_port

    return add_aio_port(server, address, mesh, reuse_port=reuse_port)


__all__ = ["SERVER_OPTIONS", "add_port", "channel", "server_interceptor"]
