"""ASGI's scope to meshlib's facts and back; nothing here waits or remembers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from meshlib.facts import Headers, Peer, Request
from meshlib.inbound.forwarded import HEADER, forged, withheld
from meshlib.inbound.target import place_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "meshlib.peer"  # scope["extensions"]: facts.Peer, put there by MeshProtocol
TARGET = "meshlib.target"  # scope["extensions"]: bytes of the request line; put there by MeshProtocol
GONE = "meshlib.gone"  # scope["extensions"]: () -> bool, whether the connection is lost; put there by MeshProtocol


def request_of(scope: Scope) -> Request:
    """The request as policy sees it, without what a client may not say about itself."""
    headers, host = _text(scope["headers"])
    authority, path = _place_asked(scope, host)
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    return Request(scope.get("method", "GET"), scheme, authority, path, headers)


def _text(raw: list[tuple[bytes, bytes]]) -> tuple[Headers, str]:
    headers: list[tuple[str, str]] = []
    authority = ""
    for raw_name, raw_value in raw:
        known = _known(raw_name)
        if known.text == "host":
            authority += ("," if authority else "") + raw_value.decode("latin-1")  # several: as Envoy, so that all see it
        elif not known.forged:
            headers.append((known.text, raw_value.decode("latin-1")))
    return tuple(headers), authority


class _Known(NamedTuple):
    text: str
    forged: bool
    withheld: bool


@lru_cache(maxsize=1024)  # the same few dozen names come with every request
def _known(raw: bytes) -> _Known:
    name = raw.decode("latin-1").lower()
    return _Known(name, forged(name), withheld(name))


def _place_asked(scope: Scope, host: str) -> tuple[str, str]:
    target = scope.get("extensions", {}).get(TARGET)  # servers keep the path only, and put their root path in front
    return place_of(target.decode("latin-1"), host) if target else (host, _path(scope))


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def peer_of(scope: Scope) -> Peer:
    """Who sent it: as MeshProtocol proved it, else an address only."""
    proved = scope.get("extensions", {}).get(PEER)
    if isinstance(proved, Peer):
        return proved
    return Peer(address=address(scope.get("client")))


def address(pair: Any) -> str:
    """`host:port` of an ASGI address, empty if there is none."""
    return f"{pair[0]}:{pair[1]}" if pair else ""


def raw_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def admitted(scope: Scope, asked: Request, permitted: Request, certificate: str | None, request_id: str) -> Scope:
    """The scope that the application sees.

    Args:
        asked: `request_of(scope)`.
        permitted: the same as the filters of the port left it.
        certificate: the value of x-forwarded-client-cert, None for no such header.
        request_id: added as x-request-id if the client sent none or an empty one, as Envoy does.
    """
    given = scope["headers"] if permitted is asked and not _renamed(scope, permitted) else _headers_of(permitted)
    headers = [item for item in given if not _known(item[0]).withheld]
    if certificate is not None:
        headers.append((HEADER.encode(), certificate.encode("latin-1")))
    if request_id and not any(value and _known(name).text == "x-request-id" for name, value in headers):
        headers = [item for item in headers if _known(item[0]).text != "x-request-id"]
        headers.append((b"x-request-id", request_id.encode("latin-1")))
    place = _place(scope, permitted.path) if permitted.path != asked.path else {}
    return {**scope, **place, "headers": headers}


def _renamed(scope: Scope, request: Request) -> bool:
    """Whether the request line named another authority than Host: the application is told the one that was decided on."""
    target = scope.get("extensions", {}).get(TARGET, b"/")
    return not target.startswith(b"/") and (b"host", request.authority.encode("latin-1")) not in scope["headers"]


def _headers_of(request: Request) -> list[tuple[bytes, bytes]]:
    return raw_headers((("host", request.authority), *request.headers))


def _place(scope: Scope, path: str) -> Scope:
    """What ASGI says about a path; servers put the root path in front."""
    root: str = scope.get("root_path", "")
    raw, _, query = path.partition("?")
    return {"path": root + unquote(raw), "raw_path": (root + raw).encode("latin-1"), "query_string": query.encode("latin-1")}
