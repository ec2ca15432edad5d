"""Run one server of the contract: `python -m tests.support.server_main uvicorn-asyncio`. gunicorn has its own command."""

from __future__ import annotations

import sys

import meshlib
from tests.support.server_apps import MESH, PATIENCE, asgi, bare_wsgi


def uvicorn(loop: str) -> None:
    import uvicorn as server

    from tests.support.server_workers import Protocol

    server.run(asgi, port=0, http=Protocol, loop=loop, access_log=False, timeout_graceful_shutdown=5)


def werkzeug() -> None:
    import werkzeug as package
    from werkzeug.serving import make_server

    from meshlib_wsgi import connection, integration

    connection.PATIENCE = PATIENCE
    integration.werkzeug(package)
    make_server("127.0.0.1", 0, bare_wsgi, threaded=True).serve_forever()


meshlib.default = lambda: MESH  # what integrations ask for
kind = sys.argv[1]
if kind == "werkzeug":
    werkzeug()
else:
    uvicorn(kind.removeprefix("uvicorn-"))
