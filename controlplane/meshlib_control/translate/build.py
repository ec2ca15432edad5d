"""Small pieces that every message needs: durations, metadata, resources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from meshlib.config.messages import message, type_url
from meshlib_control.model import MeshObject, ObjectKey, Resource

ADS = {"ads": {}, "resource_api_version": "V3"}


def duration(seconds: float) -> dict[str, int]:
    """A google.protobuf.Duration, rounded to nanoseconds."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return {"seconds": whole, "nanos": nanos}


def struct(facts: Mapping[str, Any]) -> Any:
    """A google.protobuf.Struct of strings, numbers, booleans and mappings of them."""
    return message("google.protobuf.Struct")(fields={name: _value(fact) for name, fact in facts.items()})


def _value(fact: Any) -> Any:
    value = message("google.protobuf.Value")
    if isinstance(fact, bool):
        return value(bool_value=fact)
    if isinstance(fact, int | float):
        return value(number_value=fact)
    if isinstance(fact, Mapping):
        return value(struct_value=struct(fact))
    return value(string_value=str(fact))


def origin_metadata(item: MeshObject, field: str) -> dict[str, Any]:
    """Metadata that tells people what in which file asked for a resource.

    `istio` holds what Istio writes (the object's path in the API server), `meshlib` file, line and field.
    """
    istio = struct({"config": _config_path(item.key)})
    return {"filter_metadata": {"istio": istio, "meshlib": struct(origin_facts(item, field))}}


def origin_facts(item: MeshObject, field: str) -> dict[str, Any]:
    """What in which file asked for something."""
    return {"object": str(item.key), "file": item.file, "line": line_of(item, field), "field": field}


def line_of(item: MeshObject, field: str) -> int:
    """The line of a field, or of the nearest thing around it that has one; 0 if nothing is known."""
    while field and field not in item.lines:
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return item.lines.get(field, 0)


def _config_path(key: ObjectKey) -> str:
    kind = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in key.kind).removeprefix("-")
    return f"/apis/{key.group}/v1/namespaces/{key.namespace}/{kind}/{key.name}"


def resource(name: str, body: Any, sources: Iterable[ObjectKey] = ()) -> Resource:
    """A message as a resource; its version is a hash of its bytes."""
    # Deterministic: maps in order, so that equal content has equal versions.
    data = body.SerializeToString(deterministic=True)
    return Resource(
        name=name,
        type_url=type_url(body.DESCRIPTOR.full_name),
        body=data,
        version=hashlib.blake2b(data, digest_size=8).hexdigest(),
        sources=tuple(dict.fromkeys(sources)),
    )
