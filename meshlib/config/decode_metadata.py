"""Comparisons with dynamic metadata (type.matcher.v3.MetadataMatcher). Part of `decode`, and under its rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshlib.config.decode_match import string_match
from meshlib.config.policy import (
    BoolValue,
    ListValue,
    Metadata,
    NullValue,
    NumberValue,
    OrValue,
    PresentValue,
    TextValue,
    ValueMatch,
)
from meshlib.errors import ConfigurationError


def metadata(matcher: Any, place: str) -> Metadata:
    """One condition on a value that an earlier filter wrote."""
    if not matcher.filter or not matcher.path:
        raise ConfigurationError("metadata needs a filter and a path", field=place)
    keys = tuple(segment.key for segment in matcher.path)
    return Metadata(matcher.filter, keys, _value(matcher.value, f"{place}.value"), bool(matcher.invert))


def _value(matcher: Any, place: str) -> ValueMatch:
    form = matcher.WhichOneof("match_pattern")
    if form not in _VALUES:
        raise ConfigurationError(f"{form or 'no comparison'} is not supported", field=place)
    return _VALUES[form](getattr(matcher, form), f"{place}.{form}")


def _number(matcher: Any, place: str) -> ValueMatch:
    if matcher.WhichOneof("match_pattern") == "range":
        return NumberValue(matcher.range.start, matcher.range.end)
    return NumberValue(matcher.exact)


def _list(matcher: Any, place: str) -> ValueMatch:
    return ListValue(_value(matcher.one_of, f"{place}.one_of") if matcher.HasField("one_of") else None)


def _either(matcher: Any, place: str) -> ValueMatch:
    return OrValue(tuple(_value(one, f"{place}[{index}]") for index, one in enumerate(matcher.value_matchers)))


_VALUES: Mapping[str, Callable[[Any, str], ValueMatch]] = {
    "null_match": lambda matcher, place: NullValue(),
    "double_match": _number,
    "string_match": lambda matcher, place: TextValue(string_match(matcher, place)),
    "bool_match": lambda matcher, place: BoolValue(matcher),
    "present_match": lambda matcher, place: PresentValue(matcher),
    "list_match": _list,
    "or_match": _either,
}
