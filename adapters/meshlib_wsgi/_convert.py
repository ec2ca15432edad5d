"""WSGI's environ to meshlib's facts and back; nothing here waits or remembers."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from meshlib.facts import Headers, Peer, Request
from meshlib.inbound.forwarded import HEADER, WITHHELD, forged
from meshlib.inbound.target import place_of

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

PEER = "meshlib.peer"  # in the environ, and on TLS sockets: facts.Peer
SEEN = "meshlib.seen"  # in the environ or an ASGI scope: a middleware of ours has this request
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
_WITHHELD = frozenset("HTTP_" + name.upper().replace("-", "_") for name in WITHHELD)
_TARGETS = frozenset({"RAW_URI", "REQUEST_URI"})  # as gunicorn and werkzeug name the request line's
_CLAIMED_PREFIX = "HTTP_SCRIPT_NAME"  # gunicorn believes this header of whom it lets say so, by default of its own machine
_UNPREFIXED = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
_VARIABLES = {name: key for key, name in _UNPREFIXED.items()}


def request_of(environ: Environ) -> Request:
    """The request as policy sees it, without what a client may not say about itself."""
    scheme = environ.get("wsgi.url_scheme", "http")
    authority, path = place_of(_target(environ), environ.get("HTTP_HOST", ""))
    return Request(environ["REQUEST_METHOD"], scheme, authority, path, _headers(environ))


def _headers(environ: Environ) -> Headers:
    named = ((_name(key), value) for key, value in environ.items() if isinstance(value, str))
    return tuple((name, value) for name, value in named if name and name != "host")


@lru_cache(maxsize=1024)  # the same few dozen names come with every request
def _name(key: str) -> str:
    """The header that a variable stands for; empty if it is none that may be believed."""
    if key.startswith("HTTP_"):
        name = key[5:].replace("_", "-").lower()
        return "" if forged(name) else name
    return _UNPREFIXED.get(key, "")


def _target(environ: Environ) -> str:
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw:
        return str(raw)
    path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), safe="/%:@!$&'()*+,;=~", encoding="latin-1")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def peer_of(environ: Environ) -> Peer:
    """Who sent it: as the TLS socket under gunicorn or werkzeug proved it, or MeshProtocol under a2wsgi; else an address."""
    proved = [proved_peer(environ[key]) for key in _SOCKETS if key in environ]
    proved.append(environ.get("asgi.scope", {}).get("extensions", {}).get(PEER))
    return next((peer for peer in proved if isinstance(peer, Peer)), None) or Peer(address=_address(environ))


def prove(connection: ssl.SSLSocket, peer: Peer) -> None:
    """Note on a TLS socket of the mesh whom its handshake proved. A server's own TLS gets no such note and proves nobody."""
    connection.__dict__[PEER] = peer


def proved_peer(connection: object) -> Peer | None:
    """The peer that `prove` noted, None for any other socket."""
    return getattr(connection, "__dict__", {}).get(PEER)


def seen(environ: Environ) -> bool:
    """Whether an outer middleware, of WSGI or of ASGI, has this request already."""
    return SEEN in environ or SEEN in environ.get("asgi.scope", {})


def _address(environ: Environ) -> str:
    host, port = environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", "")
    return f"{host}:{port}" if port else str(host)


def local_address(environ: Environ) -> str:
    """`host:port` the request came in at, as far as the server says it."""
    return f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}"


def change(environ: Environ, asked: Request, permitted: Request) -> None:
    """Make the environ say what the filters of the port left of a request.

    Args:
        asked: `request_of(environ)`.

    The application is called with the path that policy judged, and no other: servers read some request lines otherwise.
    Werkzeug takes `//a/b` for `/a/b`; gunicorn takes a header `SCRIPT_NAME` of neighbours off the path.
    """
    prefix = _prefix(environ, asked.path)
    if permitted.path != asked.path or prefix is None:
        _move(environ, permitted.path, prefix or "")
    if permitted.authority != environ.get("HTTP_HOST", permitted.authority):
        environ["HTTP_HOST"] = permitted.authority
    if permitted.headers is not asked.headers:
        for key in [key for key in environ if _name(key)]:
            del environ[key]
        environ.update(_variables(permitted.headers))


def _prefix(environ: Environ, path: str) -> str | None:
    """What of a path the server has taken off and told as SCRIPT_NAME; None: it made another path of it, or a client did."""
    script: str = environ.get("SCRIPT_NAME", "")
    same = script + environ.get("PATH_INFO", "") == _decoded(path.partition("?")[0])
    return script if same and _CLAIMED_PREFIX not in environ else None


def _move(environ: Environ, path: str, prefix: str) -> None:
    raw, _, query = path.partition("?")
    environ.pop(_CLAIMED_PREFIX, None)
    environ["SCRIPT_NAME"] = prefix
    environ["PATH_INFO"] = _decoded(raw).removeprefix(prefix)
    environ["QUERY_STRING"] = query
    for key in _TARGETS & environ.keys():
        environ[key] = path


def _decoded(raw: str) -> str:
    return unquote_to_bytes(raw.encode("latin-1")).decode("latin-1") if "%" in raw else raw


def _variables(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key = _VARIABLES.get(name) or "HTTP_" + name.upper().replace("-", "_")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def admit_into(environ: Environ, peer: Peer, certificate: str | None, request_id: str) -> None:
    """Make the environ what the application may see; servers expect it to be changed in place.

    Args:
        certificate: the value of x-forwarded-client-cert, None for no such header.
        request_id: added as x-request-id if the client sent none or an empty one, as Envoy does.
    """
    for key in _WITHHELD & environ.keys():
        del environ[key]
    if certificate is not None:
        environ["HTTP_" + HEADER.upper().replace("-", "_")] = certificate
    if request_id:
        environ["HTTP_X_REQUEST_ID"] = environ.get("HTTP_X_REQUEST_ID") or request_id
    environ[PEER] = peer
