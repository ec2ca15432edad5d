"""What holds for the mesh as a whole: Istio's MeshConfig, where Istio keeps it.

    apiVersion: v1
    kind: ConfigMap
    metadata: {name: istio, namespace: istio-system}
    data:
      mesh: |-
        pathNormalization: {normalization: MERGE_SLASHES}

The entry is a text, so mistakes inside are reported in the line where it begins, with their place inside.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from meshlib_control import yaml
from meshlib_control.kinds import MeshConfig, schema
from meshlib_control.kinds.mesh_config import OTHER_FIELDS
from meshlib_control.mistakes import InvalidObject, Mistake, child, did_you_mean, item
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.validate import extension_provider

KEY: Final = ObjectKey("", "ConfigMap", "istio-system", "istio")
FIELD: Final = "data.mesh"

_AUTHORIZERS: Final = frozenset({"envoyExtAuthzHttp", "envoyExtAuthzGrpc"})
_SHAPE: Final = inspect.type_info(MeshConfig)
_INTEGER: Final = re.compile(r"-?[0-9]{1,10}")
_UNDERSTOOD: Final = frozenset(field.encode_name for field in msgspec.structs.fields(MeshConfig))


def mesh_config(objects: Mapping[ObjectKey, MeshObject]) -> MeshConfig:
    """The mesh configuration among these objects, or Istio's defaults.

    One with mistakes, kept from a version that did not look at it, counts as none: the defaults are the strict ones.
    """
    found = objects.get(KEY)
    if found is None or any(mistakes(found)):
        return MeshConfig()
    return schema.build(MeshConfig, _understood(_written(found)))


def mistakes(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with the ConfigMap."""
    try:
        written = _written(found)
    except InvalidObject as error:
        yield Mistake(FIELD, str(error))
        return
    if not isinstance(written, dict):
        yield Mistake(FIELD, "must be a text of YAML with keys and values")
        return
    for key in written:
        if key not in _UNDERSTOOD | OTHER_FIELDS:
            yield Mistake(child(FIELD, key), f'unknown field "{key}"', did_you_mean(key, _UNDERSTOOD | OTHER_FIELDS))
    wrong = list(schema.mistakes(MeshConfig, _understood(written), FIELD))
    yield from wrong
    if not wrong:
        yield from extension_provider.check(schema.build(MeshConfig, _understood(written)).extension_providers, FIELD)


def idle_fields(found: MeshObject) -> list[str]:
    """Paths of what is set and does nothing yet."""
    written = _written(found)
    providers = (written.get("extensionProviders") or []) if isinstance(written, dict) else []
    others = [index for index, one in enumerate(providers) if not _AUTHORIZERS & one.keys()]
    return [
        *(child(FIELD, key) for key, value in written.items() if value and key in OTHER_FIELDS),
        *(item(child(FIELD, "extensionProviders"), index) for index in others),
    ]


def _written(found: MeshObject) -> Any:
    """The entry as plain data; an empty one is an empty configuration."""
    text = (found.raw.get("data") or {}).get("mesh", "")
    if not isinstance(text, str):
        return None
    return next((document.data for document in yaml.load(text)), {})


def _understood(written: Mapping[str, Any]) -> dict[str, Any]:
    found = _with_numbers(_SHAPE, {key: value for key, value in written.items() if key in _UNDERSTOOD})
    assert isinstance(found, dict)
    return found


def _with_numbers(shape: inspect.Type, data: Any) -> Any:
    """Numbers may be written as texts, `port: "9000"` as in Istio's task: protobuf's JSON allows it, Kubernetes' does not."""
    match shape, data:
        case inspect.IntType(), str() if _INTEGER.fullmatch(data):
            return int(data)
        case inspect.Metadata(type=inner), _:
            return _with_numbers(inner, data)
        case inspect.UnionType(types=types), _:
            return functools.reduce(lambda found, one: _with_numbers(one, found), types, data)
        case inspect.VarTupleType(item_type=inner), list():
            return [_with_numbers(inner, one) for one in data]
        case inspect.StructType(fields=fields), dict():
            shapes = {field.encode_name: field.type for field in fields}
            return {key: _with_numbers(shapes[key], value) if key in shapes else value for key, value in data.items()}
    return data
