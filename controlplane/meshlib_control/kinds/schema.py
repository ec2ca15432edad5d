"""Plain data against a struct: everything that does not fit, then the struct.

The structs carry the types and limits; this file reads them with msgspec.inspect. msgspec's own errors stop at the first
problem and name no map keys, so the walk is done here and msgspec only builds what has passed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from meshlib_control.kinds.base import Duration, Spec, parse_duration
from meshlib_control.mistakes import Mistake, child, did_you_mean, item

S = TypeVar("S", bound=Spec)

_NAMES: Final = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


def mistakes(spec: type[Spec], data: Any, path: str = "spec") -> list[Mistake]:
    """Everything in `data` that does not fit the struct, in the order of the document."""
    return list(_check(_type_of(spec), data, path))


def build(spec: type[S], data: Any) -> S:
    """The struct.

    Raises:
        msgspec.ValidationError: `mistakes` would have found something.
    """
    return msgspec.convert(data, spec, dec_hook=_custom)


@cache
def _type_of(spec: type[Spec]) -> inspect.Type:
    return inspect.type_info(spec)


def _custom(wanted: type, value: Any) -> Any:
    if issubclass(wanted, Duration):
        return wanted(parse_duration(value))
    raise NotImplementedError(wanted)


def _check(wanted: inspect.Type, data: Any, path: str) -> Iterator[Mistake]:  # noqa: C901 - one line per kind of type
    match wanted:
        case inspect.AnyType():
            return
        case inspect.Metadata(type=inner):
            yield from _with_extra(wanted, inner, data, path)
        case inspect.UnionType(types=types):
            yield from _check_optional(types, data, path)
        case inspect.StructType():
            yield from _check_struct(wanted, data, path)
        case inspect.DictType():
            yield from _check_map(wanted, data, path)
        case inspect.VarTupleType():
            yield from _check_list(wanted, data, path)
        case inspect.LiteralType(values=values):
            yield from _check_enum(tuple(values), data, path)
        case inspect.StrType():
            yield from _check_text(wanted, data, path)
        case inspect.CustomType(cls=cls):
            yield from _check_duration(cls, data, path)
        case inspect.BoolType():
            if not isinstance(data, bool):
                yield _wrong_type("boolean", data, path)
        case inspect.IntType() | inspect.FloatType():
            yield from _check_number(wanted, data, path)
        case _:
            raise NotImplementedError(f"{wanted} at {path}")


def _check_optional(types: tuple[inspect.Type, ...], data: Any, path: str) -> Iterator[Mistake]:
    (inner,) = (one for one in types if not isinstance(one, inspect.NoneType))
    bare = inner.type if isinstance(inner, inspect.Metadata) else inner
    nullable = isinstance(bare, inspect.BoolType | inspect.IntType | inspect.FloatType)
    if not (data is None and nullable):
        yield from _check(inner, data, path)


def _with_extra(wanted: inspect.Metadata, inner: inspect.Type, data: Any, path: str) -> Iterator[Mistake]:
    extra = wanted.extra or {}
    found = list(_check(inner, data, path))
    if "problem" in extra and found and isinstance(data, int):
        yield Mistake(path, f'Invalid value: "integer": {extra["problem"]}', f"{data} is not")
        return
    yield from found
    if "unique" in extra and not found:
        yield from _check_unique(extra["unique"], data, path)


def _check_unique(key: str, data: list[dict[str, Any]], path: str) -> Iterator[Mistake]:
    seen: set[Any] = set()
    for index, entry in enumerate(data):
        if entry[key] in seen:
            yield Mistake(item(path, index), f"Duplicate value: {_text({key: entry[key]})}")
        seen.add(entry[key])


def _check_struct(wanted: inspect.StructType, data: Any, path: str) -> Iterator[Mistake]:
    if not isinstance(data, dict):
        yield _wrong_type("object", data, path)
        return
    fields = {one.encode_name: one for one in wanted.fields}
    for key, value in data.items():
        if key in fields:
            yield from _check(fields[key].type, value, child(path, key))
        else:
            advice = did_you_mean(key, fields) or f"known here: {', '.join(sorted(fields))}"
            yield Mistake(child(path, key), f'unknown field "{key}"', advice)
    for name, one in fields.items():
        if one.required and name not in data:
            yield Mistake(child(path, name), "Required value")
    assert issubclass(wanted.cls, Spec)
    for group in wanted.cls.one_of:
        given = [name for name in group if name in data]
        if len(given) > 1:
            yield Mistake(child(path, given[1]), f"only one of {', '.join(group)} can be set", f"remove {' or '.join(given)}")


def _check_map(wanted: inspect.DictType, data: Any, path: str) -> Iterator[Mistake]:
    if not isinstance(data, dict):
        yield _wrong_type("object", data, path)
        return
    yield from _check_size(wanted, data, path, "properties")
    for key, value in data.items():
        yield from _check(wanted.value_type, value, child(path, key))


def _check_list(wanted: inspect.VarTupleType, data: Any, path: str) -> Iterator[Mistake]:
    if not isinstance(data, list):
        yield _wrong_type("array", data, path, "write it as a list: put '- ' before it" if data is not None else "")
        return
    yield from _check_size(wanted, data, path, "items")
    for index, value in enumerate(data):
        yield from _check(wanted.item_type, value, item(path, index))


def _check_size(
    wanted: inspect.DictType | inspect.VarTupleType | inspect.StrType, data: Any, path: str, what: str
) -> Iterator[Mistake]:
    shown = _text(data) if isinstance(data, str) else len(data)
    if wanted.min_length is not None and len(data) < wanted.min_length:
        yield Mistake(path, f"Invalid value: {shown}: {path} in body should {_have(what)} at least {wanted.min_length} {what}")
    if wanted.max_length is not None and len(data) > wanted.max_length:
        yield Mistake(path, f"Invalid value: {shown}: {path} in body should {_have(what)} at most {wanted.max_length} {what}")


def _have(what: str) -> str:
    return "be" if what == "chars long" else "have"


def _check_enum(values: tuple[Any, ...], data: Any, path: str) -> Iterator[Mistake]:
    if not isinstance(data, str):
        yield _wrong_type("string", data, path)
    elif data not in values:
        supported = ", ".join(_text(value) for value in sorted(values))
        yield Mistake(path, f"Unsupported value: {_text(data)}: supported values: {supported}", did_you_mean(data, values))


def _check_text(wanted: inspect.StrType, data: Any, path: str) -> Iterator[Mistake]:
    if not isinstance(data, str):
        yield _wrong_type("string", data, path, _quotes(data))
        return
    yield from _check_size(wanted, data, path, "chars long")
    if wanted.pattern is not None and not re.search(wanted.pattern, data):
        yield Mistake(path, f"{_invalid(data)}: {path} in body should match '{wanted.pattern}'")


def _check_duration(wanted: type, data: Any, path: str) -> Iterator[Mistake]:
    assert issubclass(wanted, Duration)
    if not isinstance(data, str):
        yield _wrong_type("string", data, path, f"write the unit: {data}s" if _is_scalar(data) else "")
        return
    limit = "must be a valid duration greater than 1ms" if wanted.minimum else "must be a valid duration"
    try:
        seconds = parse_duration(data)
    except ValueError:
        yield Mistake(path, f"{_invalid(data)}: {limit}", "write a number with a unit: 5s, 100ms, 1m30s, 1h")
        return
    if seconds < wanted.minimum:
        yield Mistake(path, f"{_invalid(data)}: {limit}")


def _check_number(wanted: inspect.IntType | inspect.FloatType, data: Any, path: str) -> Iterator[Mistake]:
    whole = isinstance(wanted, inspect.IntType)
    if isinstance(data, bool) or not isinstance(data, int if whole else int | float):
        number = isinstance(data, str) and re.fullmatch(r"-?\d+(\.\d+)?", data)
        yield _wrong_type("integer" if whole else "number", data, path, f"write it without quotes: {data}" if number else "")
    elif wanted.ge is not None and not data >= wanted.ge:
        yield Mistake(path, f"{_invalid(data)}: {path} in body should be greater than or equal to {wanted.ge}")
    elif wanted.le is not None and not data <= wanted.le:
        yield Mistake(path, f"{_invalid(data)}: {path} in body should be less than or equal to {wanted.le}")


def _wrong_type(wanted: str, data: Any, path: str, advice: str = "") -> Mistake:
    found = _text(_NAMES.get(type(data), type(data).__name__))
    if data is None:
        advice = "remove the field, or give it a value"
    return Mistake(path, f"Invalid value: {found}: {path} in body must be of type {wanted}: {found}", advice)


def _invalid(data: Any) -> str:
    return f"Invalid value: {_text(data)}"


def _text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def _quotes(data: Any) -> str:
    if isinstance(data, bool):
        return "put it in quotes: YAML takes y, n, yes, no, on, off, true and false for booleans"
    return f'write it in quotes: "{data}"' if _is_scalar(data) else ""


def _is_scalar(data: Any) -> bool:
    return isinstance(data, int | float) and not isinstance(data, bool)
