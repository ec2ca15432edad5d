"""The server of the benchmark, in its own process: uvicorn with httptools and, if installed, uvloop."""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import uvicorn

from bench.scene import SERVER
from meshlib.runtime.certificates import Certificates, identity_of
from meshlib_asgi import MeshMiddleware, MeshProtocol
from tests.support.mesh import LocalMesh

BODY = b'{"id":"0","podname":"reviews-v1","reviews":[{"reviewer":"Reviewer1","text":"%s"}]}' % (b"x" * 128)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers every request with some 200 bytes of JSON."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def main(kind: str, home: Path) -> None:
    """Serve until terminated; the first line on standard output is the port."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(sock.getsockname()[1], flush=True)
    options = meshed(home) if kind == "meshed" else plain(home)
    config = uvicorn.Config(access_log=False, log_level="warning", lifespan="off", **options)
    uvicorn.Server(config).run([sock])


def plain(home: Path) -> dict[str, Any]:
    """uvicorn's own mutual TLS."""
    return {
        "app": application,
        "http": "httptools",
        "ssl_certfile": str(home / "leaf.pem"),
        "ssl_keyfile": str(home / "key.pem"),
        "ssl_ca_certs": str(home / "root.pem"),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }


def meshed(home: Path) -> dict[str, Any]:
    """Everything that the mesh does on the server: identity, admission, context, metrics."""
    mesh: Any = LocalMesh(None, SERVER, keep_events=False)
    mesh.certificates = Certificates()
    chain = [(home / name).read_text() for name in ("leaf.pem", "root.pem")]
    mesh.certificates.install(identity_of(chain, (home / "key.pem").read_bytes()))

    return {"app": MeshMiddleware(application, mesh=mesh), "http": MeshProtocol.serving(mesh)}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
