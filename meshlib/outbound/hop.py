"""What a hop makes of a request before anything else looks at it: routes see what is left.

Rule 1: headers that the Connection header names end here (RFC 9110 7.6.1; Envoy: Http::Utility::sanitizeConnectionHeader).
`close`, `keep-alive`, `upgrade` and `http2-settings` are options, no names.
Rule 2: who names host, x-forwarded-for, x-forwarded-host or x-forwarded-proto there, or ten headers and more, wants to hide
something: the request is refused.
Rule 3: the scheme is the one that x-forwarded-proto names, if it names one (Envoy: mutateRequestHeaders).
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.facts import Request

_USUAL = frozenset({"keep-alive", "close"})
_OPTIONS = frozenset({"close", "keep-alive", "upgrade", "http2-settings"})
_ORIGIN = frozenset({"host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})
_MOST = 10


_SCHEMES = frozenset({"http", "https"})


def sanitized(request: Request) -> Request | None:
    """The request as routes see it; None: it must be refused."""
    clean = request
    for name, value in request.headers:
        if name == "connection" and value not in _USUAL:
            found = _without_named(clean)
            if found is None:
                return None
            clean = found
        elif name == "x-forwarded-proto":
            clean = _with_scheme(clean)
    return clean


def _with_scheme(request: Request) -> Request:
    # Two lines are one value with a comma, which names no scheme.
    scheme = (request.header("x-forwarded-proto") or "").lower()
    return replace(request, scheme=scheme) if scheme in _SCHEMES else request


def _without_named(request: Request) -> Request | None:
    written = ",".join(value for name, value in request.headers if name == "connection")
    words = [word.strip().lower() for word in written.split(",") if word]
    named = set(words) - _OPTIONS
    if len(words) >= _MOST or any(word in _ORIGIN or word.startswith(":") for word in named):
        return None
    return replace(request, headers=tuple(header for header in request.headers if header[0] not in named))
