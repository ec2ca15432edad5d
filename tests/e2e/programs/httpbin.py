"""An ordinary ASGI service that tells what arrived: headers, path, and which process answered."""

from __future__ import annotations

import json
import os
from typing import Any


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
