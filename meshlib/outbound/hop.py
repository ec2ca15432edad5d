"""Headers that end here: those that the request's Connection header names (RFC 9110 7.6.1).

Envoy does it before anything else looks at the request (Http::Utility::sanitizeConnectionHeader), so routes do not see them.

Rule 1: `close`, `keep-alive`, `upgrade` and `http2-settings` are options, no names.
Rule 2: who names host, x-forwarded-for, x-forwarded-host or x-forwarded-proto, or ten headers and more, wants to hide
something: the request is refused.
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.facts import Request

_USUAL = frozenset({"keep-alive", "close"})
_OPTIONS = frozenset({"close", "keep-alive", "upgrade", "http2-settings"})
_ORIGIN = frozenset({"host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})
_MOST = 10


def sanitized(request: Request) -> Request | None:
    """The request without the headers that end here; None: it must be refused."""
    for name, value in request.headers:
        if name == "connection" and value not in _USUAL:
            return _without_named(request)
    return request


def _without_named(request: Request) -> Request | None:
    written = ",".join(value for name, value in request.headers if name == "connection")
    words = [word.strip().lower() for word in written.split(",") if word]
    named = set(words) - _OPTIONS
    if len(words) >= _MOST or any(word in _ORIGIN or word.startswith(":") for word in named):
        return None
    return replace(request, headers=tuple(header for header in request.headers if header[0] not in named))
