"""Routes as gRPC's clients read them.

Rule 1: method and scheme are the same for every call, and there is no query; grpcio sees none of the three when it chooses a
        route. Conditions on them are judged here.
Rule 2: grpcio lets no condition be met by a header that is not there, not even a negated one. Where Envoy takes a missing
        header for an empty one, two routes say it: the header is not there, or it is and does not match.
Rule 3: of the route's timeout gRPC reads `max_stream_duration` alone. grpcio's core ends it 1 to 2 s too early (seen in 1.60
        to 1.85), so it is given 2 s more: never too early, at most 1 s late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import re2

from meshlib_control.model import Node
from meshlib_control.translate.build import duration

Route = dict[str, Any]
Condition = Mapping[str, Any]

CONSTANT = {":method": "POST", ":scheme": "http"}
"""What is the same for every gRPC call; a sidecar too sees `http` as the scheme."""

EARLY = 2.0
"""Seconds by which grpcio's core ends a call too early, at most."""


def grpc_routes(routes: Iterable[Route], node: Node) -> list[Route]:
    """The routes for a client of kind `grpc`, in order; those that no gRPC call can match are left out."""
    return [
        {**route, "match": match, "route": _action(route["route"], node)}
        for route in routes
        for match in _matches(route["match"])
    ]


def _matches(match: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    headers = match.get("headers", ())
    if match.get("query_parameters") or not all(_holds(header) for header in headers if header["name"] in CONSTANT):
        return
    variables = [list(_alternatives(header)) for header in headers if header["name"] not in CONSTANT]
    for combination in product(*variables):
        yield {**match, "headers": list(combination)}


def _alternatives(header: Condition) -> Iterator[Condition]:
    """The conditions of which one must hold, so that together they say what one says to Envoy."""
    if not header.get("treat_missing_header_as_empty"):
        yield header
        return
    plain = {name: value for name, value in header.items() if name != "treat_missing_header_as_empty"}
    if _matches_text(header["string_match"], "") is not header.get("invert_match", False):
        yield {"name": header["name"], "present_match": True, "invert_match": True}
    yield plain


def _holds(header: Condition) -> bool:
    met = "present_match" in header or _matches_text(header["string_match"], CONSTANT[header["name"]])
    return met is not header.get("invert_match", False)


def _matches_text(matcher: Mapping[str, Any], text: str) -> bool:
    if "exact" in matcher:
        return bool(matcher["exact"] == text)
    if "prefix" in matcher:
        return text.startswith(matcher["prefix"])
    return re2.fullmatch(matcher["safe_regex"]["regex"], text) is not None


def _action(action: Mapping[str, Any], node: Node) -> dict[str, Any]:
    seconds = _seconds(action.get("timeout", {}))
    if not seconds:
        return dict(action)
    return {**action, "max_stream_duration": {"max_stream_duration": duration(seconds + _margin(node))}}


def _margin(node: Node) -> float:
    # grpcio and everything else on C-core say so in their user agent; Go and Java keep time.
    return EARLY if "C-core" in node.version else 0.0


def _seconds(value: Mapping[str, int]) -> float:
    return value.get("seconds", 0) + value.get("nanos", 0) / 1e9
