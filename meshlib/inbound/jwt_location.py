"""Where tokens are in a request, and how they are taken away from it. The rules are those of Envoy's `jwt_authn` extractor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from meshlib.config.jwt import HeaderLocation, Location, ParameterLocation
from meshlib.facts import Request
from meshlib.match import header_values

_TOKEN_BEGINS: Final = re.compile(r"[A-Za-z0-9_.-]", re.ASCII)


def tokens(location: Location, request: Request) -> Sequence[str]:
    """The tokens at a location, the last line of several first, as they are judged."""
    if isinstance(location, HeaderLocation):
        values = header_values(location.name, request)
        return [_after(value, location.prefix) for value in reversed(values) if location.prefix in value]
    if isinstance(location, ParameterLocation):
        return _parameter(request.path, location.name) if "?" in request.path else ()
    return _cookie(request, location.name)


def without_token(location: Location, request: Request) -> Request:
    """The request as the application sees it. Envoy leaves cookies where they are."""
    if isinstance(location, HeaderLocation):
        return with_headers(request, [header for header in request.headers if header[0] != location.name])
    if isinstance(location, ParameterLocation):
        return replace(request, path=_without_parameter(request.path, location.name))
    return request


def with_headers(request: Request, headers: Iterable[tuple[str, str]]) -> Request:
    """The same request with other headers. `dataclasses.replace` takes twice as long, and every token costs it."""
    return Request(request.method, request.scheme, request.authority, request.path, tuple(headers))


def _after(value: str, prefix: str) -> str:
    """What follows the prefix, from the first character that a token can have; all of the value if there is none."""
    if not prefix:
        return value
    begin = _TOKEN_BEGINS.search(value, value.index(prefix) + len(prefix))
    return value[begin.start() :] if begin else value


def _parameter(path: str, wanted: str) -> Sequence[str]:
    """The first parameter of that name, percent decoded; `+` is a plus."""
    for part in path.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if part and _unquoted(name) == wanted:
            return (_unquoted(value),)
    return ()


def _without_parameter(path: str, unwanted: str) -> str:
    """All parameters of that name are gone, the others stay as they are written. (Envoy sorts and decodes those, too.)"""
    bare, _, query = path.partition("?")
    kept = [part for part in query.split("&") if _unquoted(part.partition("=")[0]) != unwanted]
    return f"{bare}?{'&'.join(kept)}" if kept else bare


def _unquoted(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1") if "%" in text else text


def _cookie(request: Request, wanted: str) -> Sequence[str]:
    """The first cookie of that name, without quotes around it."""
    for line in (value for name, value in request.headers if name == "cookie"):
        for part in line.split(";"):
            name, equals, value = part.partition("=")
            if equals and name.lstrip(" ") == wanted:
                return (value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value,)
    return ()
