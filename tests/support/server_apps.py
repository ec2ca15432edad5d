"""The application of the server contract, once for ASGI and once for WSGI, and gunicorn's worker classes for its mesh.

Imported by server processes only. `OUTSIDE` sees what is left of a request's context around the middleware.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import meshlib
from meshlib_asgi import MeshMiddleware as AsgiMiddleware
from meshlib_wsgi import MeshMiddleware as WsgiMiddleware
from tests.support.server_mesh import FolderMesh

MESH: Any = FolderMesh(Path(os.environ["MESH_FOLDER"]))
PATIENCE = 3.0
CHUNK = b"x" * 65_536


def who(scheme: str, headers: dict[str, str], outside: str, extra: dict[str, Any]) -> bytes:
    """What an application learns of its caller."""
    context = meshlib.context()
    seen = {
        "peer": meshlib.peer().spiffe_id,
        "host": headers.get("host"),
        "xfcc": headers.get("x-forwarded-client-cert"),
        "withheld": headers.get("x-meshlib-peer"),
        "request_id": headers.get("x-request-id"),
        "context": context.request_id if context else None,
        "scheme": scheme,
        "outside": outside,
        "pid": os.getpid(),
    }
    return json.dumps(seen | extra).encode()


def _outside() -> str:
    context = meshlib.context()
    return f"{context.request_id if context else ''}{meshlib.peer().spiffe_id}"


# ASGI


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    count = int(parse_qs(scope["query_string"].decode()).get("n", ["0"])[0])
    await {"/who": _who, "/upload": _upload, "/download": _download, "/slow": _slow}.get(scope["path"], _boom)(
        scope, receive, send, count
    )


async def _answer(send: Any, body: bytes) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def _who(scope: Any, receive: Any, send: Any, count: int) -> None:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    tls = scope["extensions"].get("tls")
    extra = {"tls": tls and tls["tls_version"], "chain": tls and len(tls["client_cert_chain"])}
    await _answer(send, who(scope["scheme"], headers, scope.get("outside", ""), extra))


async def _upload(scope: Any, receive: Any, send: Any, count: int) -> None:
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    await _answer(send, digest.hexdigest().encode())


async def _download(scope: Any, receive: Any, send: Any, count: int) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % count)]})
    for start in range(0, count, len(CHUNK)):
        await send({"type": "http.response.body", "body": CHUNK[: count - start], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _slow(scope: Any, receive: Any, send: Any, count: int) -> None:
    await asyncio.sleep(count / 1000)
    await _answer(send, b"slow")


async def _boom(scope: Any, receive: Any, send: Any, count: int) -> None:
    raise ZeroDivisionError("on purpose")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The application as a server runs it."""
    await _ASGI({**scope, "outside": _outside()}, receive, send)


_ASGI = AsgiMiddleware(_asgi, MESH)


bare_asgi = _asgi
"""The application of somebody who never heard of the mesh."""


# WSGI


def _wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    count = int(parse_qs(environ["QUERY_STRING"]).get("n", ["0"])[0])
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ZeroDivisionError("on purpose")
    body = {"/who": _wsgi_who, "/upload": _wsgi_upload, "/download": _wsgi_download, "/slow": _wsgi_slow}[path](environ, count)
    length = [("Content-Length", str(count))] if path == "/download" else []
    start_response("200 OK", [("Content-Type", "application/json"), *length])
    return body


def _wsgi_who(environ: dict[str, Any], count: int) -> Iterator[bytes]:
    headers = {key[5:].lower().replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
    yield who(environ["wsgi.url_scheme"], headers, environ.get("outside", ""), {})  # lazily: while the server iterates


def _wsgi_upload(environ: dict[str, Any], count: int) -> Iterable[bytes]:
    digest = hashlib.sha256()
    left = int(environ["CONTENT_LENGTH"])
    while left:
        data = environ["wsgi.input"].read(min(left, len(CHUNK)))
        left -= len(data)
        digest.update(data)
    return [digest.hexdigest().encode()]


def _wsgi_download(environ: dict[str, Any], count: int) -> Iterator[bytes]:
    for start in range(0, count, len(CHUNK)):
        yield CHUNK[: count - start]


def _wsgi_slow(environ: dict[str, Any], count: int) -> Iterable[bytes]:
    time.sleep(count / 1000)
    return [b"slow"]


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The application as a server runs it."""
    environ["outside"] = _outside()
    return _WSGI(environ, start_response)


_WSGI = WsgiMiddleware(_wsgi, MESH)


def bare_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The application of somebody who never heard of the mesh."""
    return _wsgi(environ, start_response)


def __getattr__(name: str) -> Any:
    if name == "a2wsgi_app":  # made on demand: it brings a thread pool
        from a2wsgi import WSGIMiddleware

        return WSGIMiddleware(bare_wsgi)  # type: ignore[arg-type]  # its own types of the same shapes
    raise AttributeError(name)
