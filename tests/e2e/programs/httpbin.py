"""An ordinary service, by ASGI (`app`) and WSGI (`wsgi`), that tells what arrived and which process answered."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """GET anything: the request as JSON. `/status/418` answers with that status."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope["path"]
    status = int(path.rpartition("/")[2]) if path.startswith("/status/") else 200
    body = json.dumps(
        {
            "path": path,
            "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
            "pid": os.getpid(),
            "name": os.environ.get("NAME", ""),
        }
    ).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Any, send: Any) -> None:
    """Nothing to start, nothing to stop."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """GET anything: path and headers as JSON."""
    headers = {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps({"path": environ["PATH_INFO"], "headers": headers}).encode()]
