"""meshlib for gRPC: channels and servers of `grpc` and `grpc.aio` in the mesh.

    channel = meshlib_grpc.channel("reviews:9080")              # calls: routing, retries, mutual TLS, telemetry
    server = grpc.server(pool, interceptors=[meshlib_grpc.server_interceptor()])
    meshlib_grpc.add_port(server, "[::]:9080")                  # mutual TLS and plain text on one port

`meshlib_grpc.aio` holds the same three for asyncio. `meshlib run -- python server.py` does it to an unmodified program.

Engine 1, the default, is this package: gRPC's core carries messages, `outbound.exchange` decides on every call. Each endpoint
has a channel of its own, so balancing is per call. The core cannot compare a certificate with a SPIFFE id (its name check
knows DNS names and IP addresses, not the URI), so mutual TLS is meshlib's own, between the network and a Unix socket to which
the core connects: `_tunnel.py` tells what that costs. Engine 2, `engine="xds"`, is grpcio's own xDS client: `native.py`.

Nothing of gRPC is touched before the first call or the start of a server, so that a process may fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

    from meshlib.runtime.mesh import Mesh
    from meshlib_grpc._lines import Options

__all__ = ["add_port", "channel", "server_interceptor"]


def channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    engine: str = "mesh",
    mesh: Mesh | None = None,
) -> grpc.Channel:
    """A channel to a service: a `grpc.Channel`, for stubs and for `grpc.intercept_channel`.

    Args:
        target: `reviews:9080`. What is never in the mesh (IP addresses, `unix:`, ...) gets gRPC's own insecure channel.
        options, compression: as for `grpc.insecure_channel`; they hold for each connection.
        engine: `mesh`; `xds`: grpcio's own xDS client.
        mesh: None: the process's own, from `MESHLIB_*` in the environment.

    Raises:
        SettingsError: there is no such engine.
    """
    _check_engine(engine)
    if engine == "xds":
        from meshlib_grpc import native

        return native.channel(target, options, compression, mesh=mesh)
    from meshlib_grpc._channel import MeshChannel
    from meshlib_grpc._convert import authority_of
    from meshlib_grpc._originals import insecure_channel

    authority = authority_of(target)
    if authority is None:
        return insecure_channel(target, options, compression)
    return MeshChannel(target, authority, options, compression, mesh)


def server_interceptor(mesh: Mesh | None = None) -> grpc.ServerInterceptor:
    """The request's side of a server: context, deadline, peer, admission, telemetry. Put it first.

    Args:
        mesh: None: the process's own.
    """
    from meshlib_grpc.sync_server import MeshInterceptor

    return MeshInterceptor(mesh)


def add_port(server: grpc.Server, address: str, *, mesh: Mesh | None = None, reuse_port: bool = True) -> int:
    """The connection's side of a server, in place of `server.add_insecure_port`: joins and registers when it starts.

    Args:
        address: `[::]:9080`; port 0: a free one. A Unix socket is left to gRPC.
        reuse_port: as gRPC's servers do by default: several processes may serve one port.

    Returns:
        The port.

    Raises:
        RuntimeError: the port cannot be had; as gRPC's own servers.
    """
    from meshlib_grpc.port import add_port as add

    return add(server, address, mesh, reuse_port=reuse_port)


def _check_engine(engine: str) -> None:
    if engine not in ("mesh", "xds"):
        from meshlib.errors import SettingsError

        raise SettingsError(f"engine={engine!r} does not exist: mesh is meshlib's own, xds is grpcio's xDS client")


def __getattr__(name: str) -> Any:
    if name == "aio":
        from importlib import import_module

        return import_module("meshlib_grpc.aio")
    raise AttributeError(f"module 'meshlib_grpc' has no attribute {name!r}")
