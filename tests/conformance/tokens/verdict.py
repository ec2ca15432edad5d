"""What may differ between Envoy and us, each with its reason. Nothing that Envoy refuses may pass."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from meshlib.match import ONE_LINE
from tests.conformance.tokens.arena import Headers, Seen
from tests.conformance.tokens.drawing import FORGED, Asked
from tests.conformance.tokens.spoiling import ALGORITHM, JSON, LENGTH

# What a proxy adds to a request, or takes away for the next hop.
_HOP = frozenset(
    {"connection", "content-length", "transfer-encoding", "x-request-id", "x-envoy-expected-rq-timeout-ms", "host"}
    | {"x-forwarded-for", "x-forwarded-proto", "x-envoy-internal"}
)

Aspect = tuple[str, Any, Any]


def differences(asked: Asked, theirs: Seen, ours: Seen) -> list[Aspect]:
    """All that differs and is not wanted."""
    return [
        (aspect, their, our)
        for aspect, their, our in _aspects(theirs, ours)
        if their != our and not any(rule(aspect, asked, theirs, ours) for rule in RULES.values())
    ]


def _aspects(theirs: Seen, ours: Seen) -> Iterator[Aspect]:
    yield "status", theirs.status, ours.status
    if theirs.status != ours.status:
        return
    yield "words", theirs.words, ours.words
    yield "challenge", theirs.challenge, ours.challenge
    yield "claims", _numbers(theirs.claims), _numbers(ours.claims)
    yield "path", _bare(theirs.path), _bare(ours.path)
    yield "query", _query(theirs.path), _query(ours.path)
    yield "headers", _headers(theirs.headers), _headers(ours.headers)


def _numbers(value: Any) -> Any:
    """Envoy's numbers are floating point, all of them."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _bare(path: str) -> str:
    return path.partition("?")[0]


def _query(path: str) -> list[str]:
    """Rule "query-as-written": what Envoy leaves of a query when it takes a parameter away is sorted and percent decoded."""
    parts = unquote(path.partition("?")[2], "latin-1").split("&")
    return sorted(part if "=" in part else f"{part}=" for part in parts if part.strip("="))


def _headers(headers: Headers) -> list[tuple[str, Any]]:
    """Rule "one-line-headers": which headers Envoy joins is in `ONE_LINE`; an application may see them apart."""
    lines: dict[str, list[str]] = {}
    for name, value in headers:
        if name not in _HOP:
            lines.setdefault(name, []).append(value)
    whole = ((name, [",".join(filter(None, values))] if name in ONE_LINE else values) for name, values in lines.items())
    return sorted(((name, _value(value)) for name, values in whole for value in values), key=repr)


def _value(value: str) -> Any:
    """JSON in Base64 by what it says: Envoy's order of members is that of a hash map."""
    try:
        found = json.loads(base64.b64decode(value, validate=True))
    except ValueError:
        return value
    return _numbers(found) if isinstance(found, dict | list) else value


Rule = Callable[[str, Asked, Seen, Seen], bool]


def _stricter(oddity: str) -> Rule:
    """A token that we do not believe: where Envoy does, all the rest may differ, too. Never the other way round."""

    def rule(_aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
        return oddity in asked.odd and not (theirs.status != 200 and ours.status == 200)

    return rule


def _no_forged_headers(aspect: str, _asked: Asked, theirs: Seen, ours: Seen) -> bool:
    if aspect != "headers":
        return False
    their, our = _headers(theirs.headers), _headers(ours.headers)
    return all(value == FORGED for _, value in their if (_, value) not in our) and all(header in their for header in our)


RULES: dict[str, Rule] = {
    "json-is-json": _stricter(JSON),
    "algorithm-of-the-key": _stricter(ALGORITHM),
    "length-of-the-curve": _stricter(LENGTH),
    "no-forged-headers": _no_forged_headers,
}

BUILT_IN = frozenset({"query-as-written", "one-line-headers"})
"""Rules that are followed in how things are compared."""


def rule_names() -> frozenset[str]:
    """All rules by name, as docs/authentication.md lists them."""
    return frozenset({*RULES, *BUILT_IN})
