"""The path of a request as Istio's proxies read it, so that what is written in two ways takes one route.

Istio's default (MeshConfig.pathNormalization: BASE) on every hop, also on the way out. Envoy does it with Chromium's
canonicalizer (url_canon_path.cc):

Rule 1: `.` and `..` segments are resolved, written plainly or as %2e; nothing climbs above the root.
So is one with parameters, `/..;x=1/`, where the dots and both slashes are written plainly (Envoy, before Chromium).
Rule 2: a backslash is a slash. Several slashes stay several.
Rule 3: escaped letters, digits, `-`, `.`, `_` and `~` are written plainly; other escapes stay as they are; what may not stand
in a path is escaped.
Rule 4: a percent sign that opens no escape stays, unless unescaping what follows would make it open one: then it is escaped.
Rule 5: %00 is refused. A fragment never leaves (Istio switches Envoy's refusal off).
Rule 6: the query is left alone.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits

_PLAIN = re.compile(r"/(?:[A-Za-z0-9_~!$&'()*+,;=:@\[\]/-]|(?<!/)\.)*")
"""Paths that are normal as they are: nearly all."""

_UNESCAPED = frozenset(ascii_letters + digits + "-._~")
_PASSED = frozenset("!$&'()*+,;=:@[]") | _UNESCAPED
_PIECE = re.compile(r"%[0-9A-Fa-f]{2}|[^/]")
_DOTS_WITH_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*")
_BARE_PERCENT = "\0"  # stands for one that opens no escape while others are undone; no request line can hold it
_OPENED = re.compile("\0(?=[0-9A-Fa-f]{2})")


def normalized(path: str) -> str | None:
    """The path and query to route by and to send; None: it must be refused.

    Args:
        path: path, query and maybe fragment as in a request line.
    """
    if _PLAIN.fullmatch(path):
        return path
    end = _end_of_path(path)
    bare = path if end == len(path) else path[:end]
    if _PLAIN.fullmatch(bare):
        return path.partition("#")[0] if "#" in path else path
    query = path[end:].partition("#")[0]
    if "%00" in bare:
        return None
    # `OPTIONS *`: nothing to resolve, and no route has it (Envoy: 404).
    return (_resolved(bare) if bare[:1] in ("/", "\\") else bare) + query


def without_fragment(path: str) -> str:
    """The path and query; a fragment is no part of either."""
    return path.partition("#")[0] if "#" in path else path


def merged_slashes(path: str) -> str:
    """The path with one slash for several (Envoy: PathUtil::mergeSlashes); the query stays."""
    bare, mark, query = path.partition("?")
    if "//" not in bare:
        return path
    ends = "/" if bare.endswith("/") else ""
    return "/" + "/".join(filter(None, bare.split("/"))) + ends + mark + query


_ESCAPED_SLASH = re.compile(r"%2F|%5C", re.IGNORECASE)


def unescaped_slashes(path: str) -> str:
    """The path with %2F and %5C written plainly; the query stays."""
    bare, mark, query = path.partition("?")
    return _ESCAPED_SLASH.sub(lambda found: "/" if found[0][1] == "2" else "\\", bare) + mark + query


def _end_of_path(path: str) -> int:
    query, fragment = path.find("?"), path.find("#")
    return min((place for place in (query, fragment) if place >= 0), default=len(path))


def _resolved(path: str) -> str:
    if "/.;" in path or "/..;" in path:
        path = _DOTS_WITH_PARAMETERS.sub(r"\1", path)
    kept: list[str] = []
    *segments, last = path.replace("\\", "/").split("/")[1:]
    for written in segments:
        segment = _unescaped(written)
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    segment = _unescaped(last)
    if segment == "..":
        del kept[-1:]
    return "/".join(["", *kept, "" if segment in (".", "..") else segment])


def _unescaped(segment: str) -> str:
    text = _PIECE.sub(_piece, segment)
    return _OPENED.sub("%25", text).replace(_BARE_PERCENT, "%") if _BARE_PERCENT in text else text


def _piece(found: re.Match[str]) -> str:
    """One character or escape of a segment."""
    text = found[0]
    if len(text) == 3:
        char = chr(int(text[1:], 16))
        return char if char in _UNESCAPED else text
    if text in _PASSED:
        return text
    if text == "%":
        return _BARE_PERCENT
    return "".join(f"%{byte:02X}" for byte in text.encode("latin-1", "replace"))
