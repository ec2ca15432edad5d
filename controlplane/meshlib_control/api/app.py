"""The routes. Each one reads its body, asks the desk, and answers; the desk knows what things mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from meshlib._version import __version__
from meshlib.errors import ConfigurationError, SettingsError
from meshlib_control.access.credentials import Credentials
from meshlib_control.access.gate import Forbidden
from meshlib_control.access.roles import Subject
from meshlib_control.desk import Desk, NotFound, Refused
from meshlib_control.store import StoreError

from .answers import answer_error, answer_problems
from .bodies import ApplyBody, AuthzBody, ExplainBody, RotateBody, TokenBody, read_body
from .guard import SUBJECT, BodyTooLarge, Guard

Answer = Callable[[Request], Awaitable[Response]]


def create_app(desk: Desk, credentials: Credentials, *, loopback: bool) -> ASGIApp:
    """The API as an ASGI application.

    Args:
        loopback: it is bound to a loopback address; the Host header is then checked.
    """
    routes = _Routes(desk)
    app = Starlette(
        routes=[
            Route("/ready", routes.ready),
            Route("/v1/version", routes.version),
            Route("/v1/apply", routes.apply, methods=["POST"]),
            Route("/v1/objects", routes.objects),
            Route("/v1/objects/{kind}/{namespace}/{name}", routes.delete, methods=["DELETE"]),
            Route("/v1/history", routes.history),
            Route("/v1/analyze", routes.analyze),
            Route("/v1/proxies", routes.proxies),
            Route("/v1/proxies/{name}/config", routes.configuration),
            Route("/v1/edges", routes.edges),
            Route("/v1/explain", routes.explain, methods=["POST"]),
            Route("/v1/authz", routes.authz, methods=["POST"]),
            Route("/v1/tokens", routes.create_token, methods=["POST"]),
            Route("/v1/ca", routes.authority),
            Route("/v1/ca/rotate", routes.rotate, methods=["POST"]),
        ],
        exception_handlers={404: _no_such_path, 405: _no_such_method, **dict.fromkeys(_STATUSES, _refusal)},
    )
    return Guard(app, credentials.subject, loopback=loopback)


class _Routes:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ready(self, _: Request) -> Response:
        return JSONResponse({"ready": True})

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": __version__, "revision": self._desk.revision})

    async def apply(self, request: Request) -> Response:
        body = await read_body(request, ApplyBody)
        return JSONResponse(
            self._desk.apply(_subject(request), body.manifests(), body.namespace, body.author, dry_run=body.dry_run)
        )

    async def objects(self, request: Request) -> Response:
        items = self._desk.objects(_subject(request), *_asked(request))
        return JSONResponse({"items": items})

    async def delete(self, request: Request) -> Response:
        client = request.query_params.get("author", "")
        return JSONResponse({"deleted": self._desk.delete(_subject(request), *_named(request), client)})

    async def history(self, request: Request) -> Response:
        limit = _number(request, "limit", 1000)
        return JSONResponse({"items": self._desk.history(_subject(request), *_asked(request), limit)})

    async def analyze(self, request: Request) -> Response:
        return JSONResponse({"findings": self._desk.analyze(_subject(request))})

    async def proxies(self, request: Request) -> Response:
        return JSONResponse({"items": self._desk.connected(_subject(request))})

    async def configuration(self, request: Request) -> Response:
        types = request.query_params.get("type", "")
        return JSONResponse({"items": self._desk.configuration(_subject(request), request.path_params["name"], types)})

    async def edges(self, request: Request) -> Response:
        return JSONResponse({"items": self._desk.talking(_subject(request), request.query_params.get("namespace", ""))})

    async def explain(self, request: Request) -> Response:
        return JSONResponse(self._desk.explained(_subject(request), await read_body(request, ExplainBody)))

    async def authz(self, request: Request) -> Response:
        return JSONResponse(self._desk.authorized(_subject(request), await read_body(request, AuthzBody)))

    async def create_token(self, request: Request) -> Response:
        body = await read_body(request, TokenBody)
        return JSONResponse(self._desk.create_token(_subject(request), body.wish()))

    async def authority(self, request: Request) -> Response:
        return JSONResponse(self._desk.authority(_subject(request)))

    async def rotate(self, request: Request) -> Response:
        body = await read_body(request, RotateBody)
        return JSONResponse(self._desk.rotate(_subject(request), hurry=body.hurry))


def _subject(request: Request) -> Subject:
    found: Subject = request.scope[SUBJECT]
    return found


def _asked(request: Request) -> tuple[str, str, str]:
    query = request.query_params
    return query.get("kind", ""), query.get("namespace", ""), query.get("name", "")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigurationError(f"{name}={text} is no number")
    return int(text)


def _named(request: Request) -> tuple[str, str, str]:
    path = request.path_params
    return path["kind"], path["namespace"], path["name"]


# The first that fits counts, so the narrow ones come first. 507: RFC 4918 11.5, "Insufficient Storage".
_STATUSES: dict[type[Exception], int] = {
    Refused: 422,
    BodyTooLarge: 413,
    ConfigurationError: 400,
    SettingsError: 400,
    NotFound: 404,
    Forbidden: 403,
    StoreError: 507,
}


async def _refusal(_: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
    return answer_problems(status, error.errors if isinstance(error, Refused) else [error])


async def _no_such_path(request: Request, _: Exception) -> Response:
    return answer_error(404, f"there is nothing at {request.url.path}", "GET /v1/objects")


async def _no_such_method(request: Request, error: Any) -> Response:
    allowed = error.headers or {}
    return answer_error(405, f"{request.method} is not possible at {request.url.path}", allowed.get("Allow", ""), allowed)
