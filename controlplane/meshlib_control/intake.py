"""YAML text becomes accepted objects: read, typed, checked. All of it or nothing."""

from __future__ import annotations

from meshlib_control import objects, validate, yaml
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey


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
        for one in objects.read(document, namespace, source):
            validate.check(one)
            if one.key in found:
                raise _twice(one, found[one.key])
            found[one.key] = one
    return list(found.values())


def _twice(second: MeshObject, first: MeshObject) -> InvalidObject:
    line = second.lines.get("", 0)
    advice = f"it is already in line {first.lines.get('', 0)}: remove one of the two"
    return InvalidObject(f"{second.key} is given twice", suggestion=advice, file=second.file, line=line)
