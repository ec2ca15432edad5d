"""What `meshlib run` does to a program, with the contract's mesh: hooks that wait for servers to be imported."""

import wrapt

import meshlib


def _default() -> object:
    from tests.support.server_apps import MESH

    return MESH


def _uvicorn(module: object) -> None:
    from meshlib_asgi.integration import uvicorn

    uvicorn(module)  # type: ignore[arg-type]


def _gunicorn(module: object) -> None:
    from meshlib_wsgi.integration import gunicorn

    gunicorn(module)  # type: ignore[arg-type]


def _werkzeug(module: object) -> None:
    from meshlib_wsgi.integration import werkzeug

    werkzeug(module)  # type: ignore[arg-type]


meshlib.default = _default  # type: ignore[attr-defined]  # integrations ask for it late
wrapt.register_post_import_hook(_uvicorn, "uvicorn")
wrapt.register_post_import_hook(_gunicorn, "gunicorn")
wrapt.register_post_import_hook(_werkzeug, "werkzeug")
