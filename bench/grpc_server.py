"""A server of the gRPC benchmark, in its own process: `python -m bench.grpc_server plain|meshed sync|aio FOLDER`.

`/bench.Echo/One` answers with what it got, `/bench.Echo/Many` answers with as many messages as the request says.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import meshlib_grpc
import meshlib_grpc.aio
from bench.scene import SERVER
from meshlib.runtime.certificates import Certificates, identity_of
from tests.support.mesh import LocalMesh

MESSAGE = b"x" * 200


def one(request: bytes, context: Any) -> bytes:
    """The request."""
    return request


def many(request: bytes, context: Any) -> Iterator[bytes]:
    """So many messages."""
    for _ in range(int(request)):
        yield MESSAGE


async def aio_one(request: bytes, context: Any) -> bytes:
    """The request."""
    return request


async def aio_many(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """So many messages."""
    for _ in range(int(request)):
        yield MESSAGE


def handler(unary: Any, stream: Any) -> Any:
    """Both methods."""
    methods = {
        "One": grpc.unary_unary_rpc_method_handler(unary),
        "Many": grpc.unary_stream_rpc_method_handler(stream),
    }
    return grpc.method_handlers_generic_handler("bench.Echo", methods)


def mesh_of(home: Path) -> Any:
    """A member of the mesh without a control plane."""
    mesh: Any = LocalMesh(None, SERVER, keep_events=False)
    mesh.certificates = Certificates()
    chain = [(home / name).read_text() for name in ("leaf.pem", "root.pem")]
    mesh.certificates.install(identity_of(chain, (home / "key.pem").read_bytes()))
    return mesh


def credentials(home: Path) -> Any:
    """gRPC's own mutual TLS."""
    key, leaf, root = ((home / name).read_bytes() for name in ("key.pem", "leaf.pem", "root.pem"))
    return grpc.ssl_server_credentials([(key, leaf)], root, require_client_auth=True)


def open_port(kind: str, server: Any, home: Path, add_port: Any, mesh: Any) -> int:
    """A port on loopback as this kind of server has it."""
    if kind == "meshed":
        return int(add_port(server, "127.0.0.1:0", mesh=mesh))
    if kind == "text":
        return int(server.add_insecure_port("127.0.0.1:0"))
    return int(server.add_secure_port("127.0.0.1:0", credentials(home)))


def serve(kind: str, home: Path) -> None:
    """Serve with the blocking API."""
    mesh = mesh_of(home) if kind == "meshed" else None
    interceptors = [meshlib_grpc.server_interceptor(mesh)] if mesh else []
    server = grpc.server(ThreadPoolExecutor(16), [handler(one, many)], interceptors)
    port = open_port(kind, server, home, meshlib_grpc.add_port, mesh)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


async def serve_aio(kind: str, home: Path) -> None:
    """Serve with asyncio."""
    mesh = mesh_of(home) if kind == "meshed" else None
    interceptors = [meshlib_grpc.aio.server_interceptor(mesh)] if mesh else []
    server = grpc.aio.server(handlers=[handler(aio_one, aio_many)], interceptors=interceptors)
    port = open_port(kind, server, home, meshlib_grpc.aio.add_port, mesh)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    what, api, folder = sys.argv[1:]
    if api == "sync":
        serve(what, Path(folder))
    else:
        asyncio.run(serve_aio(what, Path(folder)))
