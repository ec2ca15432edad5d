"""Two ordinary applications that tell what arrived, and what the mesh says about the user."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import meshlib


def told(headers: Mapping[str, str]) -> bytes:
    """The body of every answer."""
    return json.dumps({"headers": headers, "claims": meshlib.claims()}).encode()


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """GET anything."""
    if scope["type"] == "lifespan":
        while scope["type"] == "lifespan":
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = told({name.decode(): value.decode("latin-1") for name, value in scope["headers"]})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """GET anything."""
    names = [name for name in environ if name.startswith("HTTP_")]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [told({name[5:].replace("_", "-").lower(): environ[name] for name in names})]
