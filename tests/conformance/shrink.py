"""The smallest case that still shows a disagreement: fewer objects, routes, conditions and requests, shorter texts.

Smaller cases are tried many at once, side by side in one control plane, so a step costs about as much as one try. What breaks
Istio's rules is no candidate.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from meshlib.errors import ConfigurationError
from meshlib_control.intake import accept
from tests.conformance.cases import ALIVE, DEAD, Asked, Case, Place

AT_ONCE = 60
STEPS = 40

Judge = Callable[[Sequence[Case]], Awaitable[list[bool]]]
"""For each case whether it still shows the disagreement."""

_KEPT = frozenset({"apiVersion", "kind", "metadata"})


def valid(case: Case) -> bool:
    """Whether an operator could apply these objects."""
    place = Place("0", tuple(range(1, ALIVE + 1)), tuple(range(1, DEAD + 1)))
    try:
        accept("\n---\n".join(json.dumps(item) for item in place.objects(case)))
    except (ConfigurationError, KeyError):
        return False
    return True


async def smallest(case: Case, still: Judge) -> Case:
    """A case of one request, made as small as we can."""
    for _ in range(STEPS):
        smaller = await _next(case, still)
        if smaller is None:
            return case
        case = smaller
    return case


async def _next(case: Case, still: Judge) -> Case | None:
    """The first smaller case that still disagrees; None: there is none."""
    batch: list[Case] = []
    for candidate in candidates(case):
        batch.append(candidate)
        if len(batch) == AT_ONCE:
            found = await _first(batch, still)
            if found is not None:
                return found
            batch = []
    return await _first(batch, still) if batch else None


async def _first(batch: list[Case], still: Judge) -> Case | None:
    return next((case for case, shows in zip(batch, await still(batch), strict=True) if shows), None)


def candidates(case: Case) -> Iterator[Case]:
    """Valid cases that are a step smaller, the boldest first."""
    (asked,) = case.requests
    for objects in _smaller(list(case.objects)):
        candidate = Case(tuple(objects), case.requests)
        if objects and valid(candidate):
            yield candidate
    yield from (replace(case, requests=(request,)) for request in _simpler(asked))


def _smaller(value: Any) -> Iterator[Any]:
    """Plain data with one thing less, outer things first."""
    if isinstance(value, list):
        yield from (value[:index] + value[index + 1 :] for index in range(len(value)))
        for index, item in enumerate(value):
            yield from ([*value[:index], inner, *value[index + 1 :]] for inner in _smaller(item))
    elif isinstance(value, dict):
        loose = [key for key in value if key not in _KEPT]
        yield from ({name: item for name, item in value.items() if name != key} for key in loose)
        for key in loose:
            yield from ({**value, key: inner} for inner in _smaller(value[key]))
    elif isinstance(value, str) and len(value) > 8 and len(set(value)) == 1:
        yield value[:4]


def _simpler(asked: Asked) -> Iterator[Asked]:
    plain = Asked("GET", asked.port, asked.authority, "/")
    for field in fields(Asked):
        default = getattr(plain, field.name)
        if getattr(asked, field.name) != default:
            yield replace(asked, **{field.name: default})
    for index in range(len(asked.headers)):
        yield replace(asked, headers=asked.headers[:index] + asked.headers[index + 1 :])
    words = asked.script.split("|")
    yield from (
        replace(asked, script="|".join(words[:index] + words[index + 1 :])) for index in range(len(words)) if len(words) > 1
    )
    for index in range(1, len(asked.path)):
        yield replace(asked, path=asked.path[:index] + asked.path[index + 1 :])
