"""What a request must show before any route sees it: the right host name, a credential, and a body of bearable size."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshlib.errors import ConfigurationError, CredentialError
from meshlib_control.access.roles import Subject

from .answers import answer_error

OPEN_PATHS = frozenset({"/ready"})
SUBJECT = "meshlib.subject"
LARGEST_BODY = 8 * 1024 * 1024


class BodyTooLarge(ConfigurationError):
    """The request's body is larger than `LARGEST_BODY`."""

    def __init__(self) -> None:
        super().__init__(f"the body is larger than {LARGEST_BODY // 2**20} MiB: send fewer documents at once")


class Guard:
    """ASGI middleware in front of all routes. A body that turns out too large raises BodyTooLarge in the route that reads it.

    Args:
        app: what is guarded.
        identify: who sent this `Authorization` header; raises CredentialError. Routes find the answer under `SUBJECT`.
        loopback: only this machine can connect. Then the Host header must say so too: a web page that resolves its own
            name to 127.0.0.1 (DNS rebinding) would otherwise be let in by the browser.
    """

    def __init__(self, app: ASGIApp, identify: Callable[[str | None], Subject], *, loopback: bool) -> None:
        self._app = app
        self._identify = identify
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _limited(receive), send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if self._loopback and not _is_loopback_name(headers.get("host", "")):
            return answer_error(421, f"the host {headers.get('host', '')!r} is not served here", "use 127.0.0.1 or localhost")
        if scope["path"] in OPEN_PATHS:
            return None
        if _declared_length(headers) > LARGEST_BODY:
            return answer_error(413, str(BodyTooLarge()))
        try:
            scope[SUBJECT] = self._identify(headers.get("authorization"))
        except CredentialError as error:
            return answer_error(401, str(error), headers={"www-authenticate": "Bearer"})
        return None


def _declared_length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST_BODY:
            raise BodyTooLarge
        return message

    return limited


def _is_loopback_name(host_header: str) -> bool:
    host = host_header.partition("]")[0].removeprefix("[") if host_header.startswith("[") else host_header.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
