"""Fields that several resources share: durations, enums, metadata, Any. Part of `decode`, and under its rules."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config.messages import unpack
from meshlib.config.model import Origin
from meshlib.errors import ConfigurationError


def unpacked(any_value: Any, place: str) -> Any:
    """The message in an Any."""
    try:
        return unpack(any_value)
    except KeyError as error:
        raise ConfigurationError(f"the type {any_value.type_url or '(none)'} is not supported", field=place) from error
    except DecodeError as error:
        raise ConfigurationError(f"these bytes are no {any_value.type_url}: {error}", field=place) from error


def required(text: str, place: str) -> str:
    """The text, which must not be empty."""
    if not text:
        raise ConfigurationError("must not be empty", field=place)
    return text


def seconds(owner: Any, name: str, place: str) -> float:
    """A duration field; 0.0 if it is not set."""
    duration = getattr(owner, name)
    value = float(duration.seconds + duration.nanos / 1e9)
    if value < 0:
        raise ConfigurationError("a duration cannot be negative", field=f"{place}.{name}" if place else name)
    return value


def timeout(owner: Any, name: str, default: float, place: str) -> float | None:
    """Envoy: not set is the default, zero is no limit."""
    return (seconds(owner, name, place) or None) if owner.HasField(name) else default


def enum_name(owner: Any, name: str) -> str:
    """The name of an enum field's value; its number where that is not known."""
    number = getattr(owner, name)
    value = owner.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number.get(number)
    return str(value.name) if value is not None else str(number)


def origin(metadata: Any) -> Origin | None:
    """What in which file said so, from our own metadata; None if the control plane does not tell."""
    return _origin(metadata.filter_metadata["meshlib"].fields) if "meshlib" in metadata.filter_metadata else None


def origins(metadata: Any) -> dict[str, Origin]:
    """The same for each policy of an inbound listener, by its name."""
    if "meshlib.policies" not in metadata.filter_metadata:
        return {}
    told = metadata.filter_metadata["meshlib.policies"].fields
    found = ((name, _origin(value.struct_value.fields)) for name, value in told.items())
    return {name: one for name, one in found if one is not None}


def _origin(own: Any) -> Origin | None:
    if "object" not in own:
        return None
    return Origin(
        object=own["object"].string_value,
        file=own["file"].string_value if "file" in own else "",
        line=_line(own["line"].number_value) if "line" in own else 0,
        field=own["field"].string_value if "field" in own else "",
    )


def _line(number: float) -> int:
    """A line's number; 0 for what can be none, as NaN: it is for people only."""
    return int(number) if 0 < number < 2**31 else 0


def text(metadata: Any, owner: str, name: str) -> str:
    """A text in `filter_metadata[owner]`; empty if it is not there."""
    if owner not in metadata or name not in metadata[owner].fields:
        return ""
    return str(metadata[owner].fields[name].string_value)


def text_fields(metadata: Any, owner: str, name: str) -> dict[str, str]:
    """A struct of texts in `filter_metadata[owner]`; empty if it is not there."""
    if owner not in metadata or name not in metadata[owner].fields:
        return {}
    return {key: str(value.string_value) for key, value in metadata[owner].fields[name].struct_value.fields.items()}
