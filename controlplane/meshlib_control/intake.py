"""YAML text becomes accepted objects: read, typed, checked. All of it or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meshlib_control import objects, validate, yaml
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.yaml import Document

# What a server adds to an object; text that came from `get -o yaml` brings it back.
_SERVER_METADATA: Final = frozenset(
    {"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid", "deletionTimestamp"}
)


def accept(text: str, file: str = "", namespace: str = "default", source: str = "api") -> list[MeshObject]:
    """The objects of a YAML text.

    Args:
        file: as the operator named it; empty for text without a file.
        namespace: for objects that name none.
        source: kept in the objects, see `MeshObject.source`.

    Raises:
        InvalidObject: the first mistake, with file, line, field and a suggestion; nothing is accepted then.
    """
    found: dict[ObjectKey, MeshObject] = {}
    for document in yaml.load(text, file):
        for one in objects.read(_as_written(document), namespace, source):
            validate.check(one)
            if one.key in found:
                raise _twice(one, found[one.key])
            found[one.key] = one
    return list(found.values())


def _as_written(document: Document) -> Document:
    if not isinstance(document.data, dict):
        return document
    return Document(_without_server_fields(document.data), document.lines, document.file)


def _without_server_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in data.items() if name != "status"}
    if isinstance(kept.get("items"), list):
        kept["items"] = [_without_server_fields(part) if isinstance(part, dict) else part for part in kept["items"]]
    if isinstance(kept.get("metadata"), dict):
        kept["metadata"] = {name: value for name, value in kept["metadata"].items() if name not in _SERVER_METADATA}
    return kept


def _twice(second: MeshObject, first: MeshObject) -> InvalidObject:
    line = second.lines.get("", 0)
    advice = f"it is already in line {first.lines.get('', 0)}: remove one of the two"
    return InvalidObject(f"{second.key} is given twice", suggestion=advice, file=second.file, line=line)
