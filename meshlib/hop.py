"""Headers of one connection: they end at the hop that reads them, whoever it is (RFC 9110 7.6.1).

Rule 1: what the Connection header names is gone before anybody decides (Envoy: Http::Utility::sanitizeConnectionHeader).
`close`, `keep-alive`, `upgrade` and `http2-settings` are options, no names; `te` stays where it asks for trailers.
Rule 2: who names host, x-forwarded-for, x-forwarded-host, x-forwarded-proto or a pseudo header there, or ten headers and
more, wants to hide something: the request is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace

from meshlib.facts import Headers, Request

USUAL = frozenset({"keep-alive", "Keep-Alive", "close"})
"""Values of Connection that name nothing, as nearly all clients write them."""

_OPTIONS = frozenset({"close", "keep-alive", "upgrade", "http2-settings"})
_ORIGIN = frozenset({"host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})
_MOST = 10


def connection_words(request: Request) -> list[str]:
    """What Connection says, in lower case."""
    written = ",".join(value for name, value in request.headers if name == "connection")
    return [word.strip().lower() for word in written.split(",") if word]


def without_named(request: Request) -> Request | None:
    """The request without what its Connection header names; None: it must be refused."""
    words = connection_words(request)
    named = set(words) - _OPTIONS
    if len(words) >= _MOST or any(word in _ORIGIN or word.startswith(":") for word in named):
        return None
    if "te" in named and _asks_for_trailers(request):
        named.discard("te")
    return without(request, named) if named else request


def without(request: Request, names: Set[str]) -> Request:
    """The request without some headers, which Connection does not name any more either."""
    return replace(request, headers=tuple(_left(request.headers, names)))


def _left(headers: Headers, names: Set[str]) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        if name == "connection":
            words = (word.strip() for word in value.split(","))
            kept = ",".join(word for word in words if word and word.lower() not in names)
            if kept:
                yield name, kept
        elif name not in names:
            yield name, value


def _asks_for_trailers(request: Request) -> bool:
    return any(word.strip() == "trailers" for word in (request.header("te") or "").lower().split(","))
