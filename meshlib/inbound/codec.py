"""What Envoy's HTTP/1.1 codec refuses, or takes away, before anybody decides on a request.

Rule 1: an authority has the characters of one (RFC 3986 3.2, HeaderUtility::authorityIsValid).
Rule 2: CONNECT names no path, and there is no tunnel here.
Rule 3: a body is chunked or has a length; other codings are not known (ConnectionImpl: 501).
Rule 4: the only upgrade is to WebSocket, as Istio configures it; an offer of h2c is passed over (RFC 9110 7.8 allows it).
Rule 5: a request line has a method of HTTP's, in capitals, and visible ASCII (BalsaParser::isMethodNameValid, isUrlValid).
Rule 6: a body has one length, in digits, and none beside chunks. Most servers see to rules 5 and 6 themselves, not Werkzeug's.
Rule 7: what `Connection` names is gone before a policy looks; who hides something in this way is refused (`meshlib.hop`).
"""

from __future__ import annotations

import re

from meshlib.hop import USUAL, connection_words, without, without_named
from meshlib.inbound.visit import Denied, Visit
from meshlib.match import header_values

_AUTHORITY = re.compile(r"[A-Za-z0-9._~%!$&'()*+;=:@\[\]-]+")
_NO_HOST = Denied("the request names no host, or several", 400, body="", detail="missing_host_header")
_BAD_HOST = Denied("the request's host is none", 400, body="", detail="http.invalid_authority")
_NO_LINE = Denied("the request line is none", 400, body="", detail="http1.codec_error")
_NO_LENGTH = Denied("the body's length is none", 400, body="", detail="http1.codec_error")
_NO_TUNNEL = Denied("the request is a CONNECT with a path", 400, body="", detail="http1.codec_error")
_NO_CODING = Denied("the body's transfer coding is not known", 501, body="", detail="http1.invalid_transfer_encoding")
_NOMINATED = Denied("Connection names what it may not", 400, body="", detail="http1.connection_header_rejected")
_NO_UPGRADE = Denied("the request asks for an upgrade that nobody offers", 403, body="", detail="upgrade_failed")

_TARGET = re.compile(r"[!-~]+")
_LENGTH = re.compile(r"[0-9]+")
_METHODS = frozenset({
    "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY",
    "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "REBIND",
    "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
})  # fmt: skip
_UPGRADES = frozenset({"websocket", "h2c"})
_OF_H2C = frozenset({"upgrade", "http2-settings"})


def read(visit: Visit) -> Denied | None:
    """Take away what is of the connection, or say why the request is refused."""
    request = visit.request
    if not _AUTHORITY.fullmatch(request.authority):
        return _BAD_HOST if request.authority and "," not in request.authority else _NO_HOST
    if request.method not in _METHODS or not _TARGET.fullmatch(request.path):
        return _NO_LINE
    if request.method == "CONNECT" and request.path.startswith("/"):
        return _NO_TUNNEL
    unusual, framed = False, 0
    for name, value in request.headers:
        if name == "connection":
            unusual |= value not in USUAL
        elif name == "transfer-encoding":
            if value.lower() != "chunked":
                return _NO_CODING
            framed += 1
        elif name == "content-length":
            framed += 1 if _LENGTH.fullmatch(value) else 2
    if framed > 1:
        return _NO_LENGTH
    return _of_the_connection(visit) if unusual else None


def _of_the_connection(visit: Visit) -> Denied | None:
    left = without_named(visit.request)
    if left is None:
        return _NOMINATED
    upgrades = [one.lower() for one in header_values("upgrade", left)] if "upgrade" in connection_words(left) else []
    if not _UPGRADES.issuperset(upgrades):
        return _NO_UPGRADE
    visit.request = without(left, _OF_H2C) if "h2c" in upgrades else left
    return None
