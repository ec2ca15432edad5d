"""What a request line names (RFC 9112 3.2), as Envoy's HTTP/1.1 codec reads it."""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)


def place_of(target: str, host: str) -> tuple[str, str]:
    """Authority and path of a request.

    Args:
        target: as in the request line: usually a path; `http://reviews/0` names its authority itself, whatever Host says;
            a user's name in it (`http://joe@reviews/0`) is no part of that.
        host: the Host header.
    """
    if target.startswith("/"):
        return host, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return host, target
    authority, path = absolute.groups()
    return authority.rpartition("@")[2], path if path.startswith("/") else f"/{path}"
