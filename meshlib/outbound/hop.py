"""What a hop makes of a request before anything else looks at it: routes see what is left.

Rule 1: what the Connection header names ends here; who hides something in this way is refused (`meshlib.hop`).
Rule 2: the scheme is the one that x-forwarded-proto names, if it names one (Envoy: mutateRequestHeaders).
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.facts import Request
from meshlib.hop import USUAL, without_named

_SCHEMES = frozenset({"http", "https"})


def sanitized(request: Request) -> Request | None:
    """The request as routes see it; None: it must be refused."""
    clean = request
    for name, value in request.headers:
        if name == "connection" and value not in USUAL:
            found = without_named(clean)
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
