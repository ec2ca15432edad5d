"""Changes that a service asks for in the headers of a request, in its order. Envoy: HeaderValueOption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from meshlib.facts import Headers, Request


class Way(Enum):
    """What becomes of values that are there already. The value is xDS's append_action."""

    ADD = "APPEND_IF_EXISTS_OR_ADD"
    ADD_IF_ABSENT = "ADD_IF_ABSENT"
    SET = "OVERWRITE_IF_EXISTS_OR_ADD"
    SET_IF_PRESENT = "OVERWRITE_IF_EXISTS"
    JOIN_IF_PRESENT = "append: true"  # the former field's meaning


class Change(NamedTuple):
    """One header. Args: name: in lower case."""

    name: str
    value: str
    way: Way = Way.SET


@dataclass(frozen=True, slots=True)
class Query:
    """Changes of the query's parameters."""

    given: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()


SAME_QUERY = Query()

_PLACE = {":path": "path", ":authority": "authority", "host": "authority"}
_FIXED = frozenset({":method", ":scheme", "content-length", "transfer-encoding"})
"""What a request is cannot be changed here: the server has read it already."""


def changed(request: Request, changes: Iterable[Change], removed: Iterable[str], query: Query) -> Request:
    """The request as the application shall see it."""
    headers = list(request.headers)
    place: dict[str, str] = {}
    for one in changes:
        if one.name in _PLACE:
            place[_PLACE[one.name]] = one.value
        elif one.name not in _FIXED:
            _apply(headers, one)
    gone = {name for name in removed if not name.startswith(":") and name not in {"host", *_FIXED}}
    kept = tuple(item for item in headers if item[0] not in gone)
    path = _requeried(place.pop("path", request.path), query)
    return replace(request, path=path, headers=kept, **place)


def _apply(headers: list[tuple[str, str]], change: Change) -> None:
    at = [index for index, (name, _) in enumerate(headers) if name == change.name]
    match change.way:
        case Way.JOIN_IF_PRESENT if at:
            headers[at[0]] = (change.name, f"{headers[at[0]][1]},{change.value}")
        case Way.SET if at:
            _overwrite(headers, at, change)
        case Way.SET_IF_PRESENT if at:
            _overwrite(headers, at, change)
        case Way.ADD | Way.SET:
            headers.append((change.name, change.value))
        case Way.ADD_IF_ABSENT if not at:
            headers.append((change.name, change.value))
        case _:
            return


def _overwrite(headers: list[tuple[str, str]], at: list[int], change: Change) -> None:
    for index in reversed(at[1:]):
        del headers[index]
    headers[at[0]] = (change.name, change.value)


def _requeried(path: str, query: Query) -> str:
    if not query.given and not query.removed:
        return path
    bare, _, text = path.partition("?")
    found: dict[str, list[str]] = {}
    for part in filter(None, text.split("&")):
        name, _, value = part.partition("=")
        found.setdefault(name, []).append(value)
    found |= {name: [value] for name, value in query.given}
    for name in query.removed:
        found.pop(name, None)
    words = "&".join(f"{name}={value}" for name in sorted(found) for value in found[name])  # Envoy: by name
    return f"{bare}?{words}" if words else bare


def headers_of(changes: Iterable[Change]) -> Headers:
    """What they come to where there are no headers yet."""
    headers: list[tuple[str, str]] = []
    for one in changes:
        _apply(headers, one)
    return tuple(headers)
