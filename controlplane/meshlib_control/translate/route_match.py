"""Conditions of a VirtualService as Envoy's RouteMatch. Istio: translateRouteMatch in route.go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshlib_control.kinds import StringMatch
from meshlib_control.kinds.virtual_service import HttpMatch

ANY_PATH: dict[str, Any] = {"prefix": "/"}


def route_match(match: HttpMatch | None) -> dict[str, Any]:
    """The conditions of one match block; None matches everything."""
    if match is None:
        return dict(ANY_PATH)
    pseudo = {":method": match.method, ":authority": match.authority, ":scheme": match.scheme}
    headers = [_header(name, value) for name, value in _given(pseudo).items()]
    headers += [_header(name.lower(), value) for name, value in match.headers.items()]
    headers += [_without(name.lower(), value) for name, value in match.without_headers.items()]
    query = [_query(name, value) for name, value in match.query_params.items()]
    return {**_path(match), "headers": headers, "query_parameters": query}


def is_catch_all(match: Mapping[str, Any]) -> bool:
    """Whether nothing after this match can ever be reached."""
    anything = match.get("prefix") == "/" or match.get("safe_regex") == {"regex": ".*"}
    return anything and not match.get("headers") and not match.get("query_parameters")


def _path(match: HttpMatch) -> dict[str, Any]:
    uri = match.uri
    if uri is None or _is_presence(uri):
        return dict(ANY_PATH)
    if uri.regex is not None:
        return {"safe_regex": {"regex": uri.regex}}
    path = {"path": uri.exact} if uri.exact is not None else {"prefix": uri.prefix}
    return {**path, "case_sensitive": {"value": False}} if match.ignore_uri_case else path


def _header(name: str, value: StringMatch) -> dict[str, Any]:
    if _is_presence(value) or value.regex == "*":
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": _string(value)}


def _without(name: str, value: StringMatch) -> dict[str, Any]:
    header = {**_header(name, value), "invert_match": True}
    # Istio: a missing header is compared as empty; presence needs no such help.
    return header if "present_match" in header else {**header, "treat_missing_header_as_empty": True}


def _query(name: str, value: StringMatch) -> dict[str, Any]:
    return {"name": name, "present_match": True} if _is_presence(value) else {"name": name, "string_match": _string(value)}


def _string(value: StringMatch) -> dict[str, Any]:
    if value.exact is not None:
        return {"exact": value.exact}
    if value.prefix is not None:
        return {"prefix": value.prefix}
    return {"safe_regex": {"regex": value.regex}}


def _is_presence(value: StringMatch) -> bool:
    return value.exact is None and value.prefix is None and value.regex is None


def _given(matches: Mapping[str, StringMatch | None]) -> dict[str, StringMatch]:
    return {name: value for name, value in matches.items() if value is not None}
