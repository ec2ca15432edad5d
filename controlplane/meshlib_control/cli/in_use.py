"""What a client uses by its own word, next to what the control plane knows of it: the column IN USE of `meshlib pc`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

Json = Mapping[str, Any]
Resource = dict[str, Any]


def compared(resource: Json, used: Json | None, same: Callable[[Json, Json], bool] = operator.eq) -> Resource:
    """A resource with `inUse`.

    `same`: what it should have; `older`: what it acknowledged before; `differs`: neither, and `used` is there too;
    `missing`: it acknowledged this and does not have it; `extra`: it has what was never meant for it; `-`: nothing.

    Args:
        resource: an entry of the API, with `held`, and `wanted` where that is another.
        used: the client's own; None: it has none of that name.
        same: whether one of the two means the same as the client's.
    """
    held = resource["held"]
    wanted = resource.get("wanted", held)
    if used is None:
        return {**resource, "inUse": "-" if held is None else "missing"}
    if wanted is not None and same(wanted, used):
        return {**resource, "inUse": "same"}
    if held is not None and same(held, used):
        return {**resource, "inUse": "older"}
    if held is None and wanted is None:
        return {**resource, "inUse": "extra"}
    return {**resource, "inUse": "differs", "used": used}


def unsent(kind: str, name: str, in_use: str = "extra") -> Resource:
    """An entry for what a client has without the control plane."""
    return {"type": kind, "name": name, "status": "-", "held": None, "error": "", "objects": [], "inUse": in_use}
