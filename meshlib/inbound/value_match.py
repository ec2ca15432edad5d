"""Comparisons with the dynamic metadata, whose values are JSON's. Envoy: Matchers::ValueMatcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from meshlib.match import text_matches

_ABSENT = object()


def found_value(metadata: Mapping[str, Any], condition: Metadata) -> Any:
    """The value that a condition is about; a mark of our own if there is none."""
    found: Any = metadata.get(condition.namespace, _ABSENT)
    for key in condition.path:
        if not isinstance(found, dict) or key not in found:
            return _ABSENT
        found = found[key]
    return found


def value_fits(match: ValueMatch, value: Any) -> bool:
    """Whether a value meets a comparison; one of another type does not."""
    match match:
        case TextValue(text):
            return isinstance(value, str) and text_matches(text, _bytes_of(value))
        case ListValue(one):
            return one is not None and isinstance(value, list) and any(value_fits(one, item) for item in value)
        case OrValue(parts):
            return any(value_fits(part, value) for part in parts)
        case BoolValue(wanted):
            return value is wanted
        case NullValue():
            return value is None
        case PresentValue(wanted):
            return wanted and value is not _ABSENT
        case NumberValue(start, end):
            return _is_number(value) and (value == start if end is None else start <= value < end)
        case _:
            raise TypeError(f"no comparison: {match!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bytes_of(text: str) -> str:
    """Matches are about bytes, shown as latin-1."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("latin-1")
