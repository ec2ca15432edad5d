"""What `meshlib run` does to grpc once it is imported: channels and servers that a program makes in the ordinary way join.

`grpc.insecure_channel("reviews:9080")`, `grpc.aio.insecure_channel`, `grpc.server` and `grpc.aio.server` with
`add_insecure_port`. Left alone: secure channels and ports (whoever sets up TLS means it), and targets that are never in the
mesh. `meshlib` itself uses secure channels only, so its own way to the control plane is not led through the mesh.

The modules that do the work are imported when a channel or a server is made: importing grpc costs as much as before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_ORIGINAL = "meshlib_original"  # on what we put in the place of another; `_originals` looks for it


def grpc(module: ModuleType) -> None:
    """Patch grpc and grpc.aio. Idempotent."""
    if hasattr(module.insecure_channel, _ORIGINAL):
        return
    aio: Any = module.aio
    _replace(module, "insecure_channel", _channel(module.insecure_channel))
    _replace(aio, "insecure_channel", _aio_channel(aio.insecure_channel))
    _replace(module, "server", _server(module.server))
    _replace(aio, "server", _aio_server(aio.server))


def _replace(owner: Any, name: str, value: Any) -> None:
    setattr(value, _ORIGINAL, getattr(owner, name))
    setattr(owner, name, value)


def _channel(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def insecure_channel(target: str, options: Any = None, compression: Any = None) -> Any:
        from meshlib_grpc._convert import authority_of

        if authority_of(target) is None:
            return original(target, options, compression)
        import meshlib_grpc

        return meshlib_grpc.channel(target, options, compression)

    return insecure_channel


def _aio_channel(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def insecure_channel(target: str, options: Any = None, compression: Any = None, interceptors: Any = None) -> Any:
        from meshlib_grpc._convert import authority_of

        if authority_of(target) is None:
            return original(target, options, compression, interceptors)
        from meshlib_grpc import aio

        return aio.channel(target, options, compression, interceptors)

    return insecure_channel


def _server(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def server(
        thread_pool: Any,
        handlers: Any = None,
        interceptors: Sequence[Any] | None = None,
        options: Any = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: Any = None,
        xds: bool = False,
    ) -> Any:
        if xds:
            return original(thread_pool, handlers, interceptors, options, maximum_concurrent_rpcs, compression, xds)
        from meshlib_grpc.port import add_port
        from meshlib_grpc.sync_server import MeshInterceptor

        ours = (MeshInterceptor(), *(interceptors or ()))
        made = original(thread_pool, handlers, ours, options, maximum_concurrent_rpcs, compression)
        _lead(made, add_port, options)
        return made

    return server


def _aio_server(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def server(
        migration_thread_pool: Any = None,
        handlers: Any = None,
        interceptors: Sequence[Any] | None = None,
        options: Any = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: Any = None,
    ) -> Any:
        from meshlib_grpc.aio import SERVER_OPTIONS
        from meshlib_grpc.aio_server import MeshAioInterceptor
        from meshlib_grpc.port import add_aio_port

        ours = (MeshAioInterceptor(), *(interceptors or ()))
        all_options = (*SERVER_OPTIONS, *(options or ()))
        made = original(migration_thread_pool, handlers, ours, all_options, maximum_concurrent_rpcs, compression)
        _lead(made, add_aio_port, options)
        return made

    return server


def _lead(server: Any, add: Callable[..., int], options: Any) -> None:
    """`server.add_insecure_port` leads to our acceptor from now on."""
    from meshlib_grpc._convert import option

    original = server.add_insecure_port
    shared = option(options, "grpc.so_reuseport") != 0

    def add_insecure_port(address: str) -> int:
        return add(server, address, None, reuse_port=shared, original=original)

    server.add_insecure_port = add_insecure_port
