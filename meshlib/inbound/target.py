"""What a request line names (RFC 9112 3.2), as Envoy's HTTP/1.1 codec reads it."""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"https?://((?:\[[^]/?#]*\]|[^]\[/?#:@]+)(?::\d+)?)((?:[/?#].*)?)", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"(?<=://)[^/?#]*@")


def place_of(target: str, host: str) -> tuple[str, str]:
    """Authority and path of a request.

    Args:
        target: as in the request line: usually a path; `http://reviews/0` names its authority itself, whatever Host says;
            a user's name in it (`http://joe@reviews/0`) is no part of that.
        host: the Host header.

    What begins with no slash, `http://reviews?x` or a port that is none, has no path: nothing serves it (Envoy: 404 or 400).
    """
    if target.startswith("/"):
        return host, target
    absolute = _ABSOLUTE.fullmatch(_USER.sub("", target, 1))
    if absolute is None:
        return host, target
    authority, path = absolute.groups()
    return authority, path or "/"
