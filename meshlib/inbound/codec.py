"""What Envoy's HTTP/1.1 codec refuses, or takes away, before anybody decides on a request.

Rule 1: an authority has the characters of one (RFC 3986 3.2, HeaderUtility::authorityIsValid).
Rule 2: CONNECT names no path, and there is no tunnel here.
Rule 3: a body is chunked or has a length; other codings are not known (ConnectionImpl: 501).
Rule 4: the only upgrade is to WebSocket, as Istio configures it; an offer of h2c is passed over (RFC 9110 7.8 allows it).
Rule 5: what `Connection` names belongs to one connection and is gone before a policy looks (RFC 9110 7.6.1). Who names in
this way where a request came from, or what it asks for, is refused (Utility::sanitizeConnectionHeader).
"""

from __future__ import annotations

import re
from dataclasses import replace

from meshlib.facts import Headers, Request
from meshlib.inbound.visit import Denied, Visit
from meshlib.match import header_values

_AUTHORITY = re.compile(r"[A-Za-z0-9._~%!$&'()*+;=:@\[\]-]+")
_NO_HOST = Denied("the request names no host, or several", 400, body="", detail="missing_host_header")
_BAD_HOST = Denied("the request's host is none", 400, body="", detail="http.invalid_authority")
_NO_TUNNEL = Denied("the request is a CONNECT with a path", 400, body="", detail="http1.codec_error")
_NO_CODING = Denied("the body's transfer coding is not known", 501, body="", detail="http1.invalid_transfer_encoding")
_NOMINATED = Denied("Connection names what it may not", 400, body="", detail="http1.connection_header_rejected")

_NO_UPGRADE = Denied("the request asks for an upgrade that nobody offers", 403, body="", detail="upgrade_failed")

_OF_THE_CONNECTION = frozenset({"close", "http2-settings", "keep-alive", "upgrade"})
_NEVER = frozenset({"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "host"})
_UPGRADES = frozenset({"websocket", "h2c"})
_OF_HTTP2 = frozenset({"upgrade", "http2-settings"})
_USUAL = frozenset({"keep-alive", "Keep-Alive", "close"})
_MOST_NAMES = 9


def read(visit: Visit) -> Denied | None:
    """Take away what is of the connection, or say why the request is refused."""
    request = visit.request
    if not _AUTHORITY.fullmatch(request.authority):
        return _BAD_HOST if request.authority and "," not in request.authority else _NO_HOST
    if request.method == "CONNECT" and request.path.startswith("/"):
        return _NO_TUNNEL
    named: list[str] = []
    for name, value in request.headers:
        if name == "connection" and value not in _USUAL:
            named += filter(None, value.split(","))
        elif name == "transfer-encoding" and value.lower() != "chunked":
            return _NO_CODING
    return _taken_away(visit, [one.strip(" \t").lower() for one in named]) if named else None


def _taken_away(visit: Visit, named: list[str]) -> Denied | None:
    gone = set(named) - _OF_THE_CONNECTION
    if len(named) > _MOST_NAMES or gone & _NEVER or any(one.startswith(":") for one in gone):
        return _NOMINATED
    upgrades = header_values("upgrade", visit.request) if "upgrade" in named else []
    if any(one.lower() not in _UPGRADES for one in upgrades):
        return _NO_UPGRADE
    if any(one.lower() == "h2c" for one in upgrades):
        gone |= _OF_HTTP2
    if _takes_trailers(visit.request):
        gone.discard("te")
    if gone:
        visit.request = replace(visit.request, headers=_without(gone, visit.request.headers))
    return None


def _without(gone: set[str], headers: Headers) -> Headers:
    left: list[tuple[str, str]] = []
    for name, value in headers:
        if name == "connection":
            value = ",".join(one for one in map(str.strip, value.split(",")) if one and one.lower() not in gone)
        if value if name == "connection" else name not in gone:
            left.append((name, value))
    return tuple(left)


def _takes_trailers(request: Request) -> bool:
    codings = (request.header("te") or "").lower().split(",")
    return any(one.strip() == "trailers" for one in codings)
