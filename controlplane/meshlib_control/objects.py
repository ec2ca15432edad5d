"""A document of YAML becomes a `MeshObject`: known kind, good metadata, typed spec.

What the kinds mean to each other, and rules over several fields, are `validate`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from meshlib_control.kinds import EXTENSIONS, GATEWAY_API, KINDS, MESHLIB, NETWORKING, SECURITY, TELEMETRY, Kind, schema
from meshlib_control.mistakes import InvalidObject, Mistake, child, did_you_mean, item, line_of
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.yaml import Document

# Kubernetes: DNS-1123 subdomains and labels, qualified names (apimachinery, pkg/util/validation).
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_STRICT_GROUPS: Final = frozenset({NETWORKING, SECURITY, TELEMETRY, EXTENSIONS, GATEWAY_API, MESHLIB})
_OBJECT_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA_FIELDS: Final = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "managedFields",
    "ownerReferences",
    "selfLink",
)

# What a server adds to an object; text that came from `get -o yaml` brings it back.
_SERVER_METADATA: Final = frozenset(
    {"creationTimestamp", "deletionTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"}
)


def read(document: Document, namespace: str = "default", source: str = "api") -> list[MeshObject]:
    """The objects of a document: one, or the items of a `List`.

    Args:
        namespace: for documents that name none.
        source: kept in the object, see `MeshObject.source`.

    Raises:
        InvalidObject: the first mistake, with file, line, field and what to write instead.
    """
    return [_object(part, namespace, source) for part in _unpacked(document)]


def mistakes(document: Document) -> list[Mistake]:
    """Everything that `read` would refuse in a document that holds one object."""
    return list(_mistakes(document.data))


def split(api_version: str) -> tuple[str, str]:
    """Group and version: `networking.istio.io/v1` -> (`networking.istio.io`, `v1`); `v1` -> (``, `v1`)."""
    group, slash, version = api_version.rpartition("/")
    return (group, version) if slash else ("", api_version)


def kind_of(data: Mapping[str, Any]) -> Kind:
    """What is known of the kind of a document that has passed `mistakes`; unknown kinds are kept as they are."""
    group, version = split(data["apiVersion"])
    return KINDS.get((group, data["kind"])) or Kind(group, data["kind"], (version,))


def _object(document: Document, namespace: str, source: str) -> MeshObject:
    for mistake in _mistakes(document.data):
        raise refusal(mistake, document)
    data = document.data
    kind, metadata = kind_of(data), data["metadata"]
    where = metadata.get("namespace", namespace) if kind.namespaced else ""
    return MeshObject(
        key=ObjectKey(kind.group, kind.name, where, metadata["name"]),
        api_version=data["apiVersion"],
        spec=schema.build(kind.spec, data.get("spec", {})) if kind.spec else None,
        raw=_as_written(data),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        lines=document.lines,
        file=document.file or "api",
        source=source,
    )


def _as_written(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in data.items() if name != "status"}
    kept["metadata"] = {name: value for name, value in data["metadata"].items() if name not in _SERVER_METADATA}
    return kept


def refusal(mistake: Mistake, document: Document) -> InvalidObject:
    """A mistake as an error that knows its file and line."""
    return InvalidObject(
        mistake.problem,
        suggestion=mistake.suggestion,
        field=mistake.field,
        file=document.file,
        line=line_of(document.lines, mistake.field),
    )


def _unpacked(document: Document) -> Iterator[Document]:
    data = document.data
    if not (isinstance(data, dict) and str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list)):
        yield document
        return
    for index, part in enumerate(data["items"]):
        prefix = item("items", index)
        lines = {path[len(prefix) :].lstrip("."): line for path, line in document.lines.items() if _below(path, prefix)}
        yield from _unpacked(Document(part, lines, document.file))


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))


def _mistakes(data: Any) -> Iterator[Mistake]:
    if not isinstance(data, dict):
        yield Mistake("", "not an object", "a document starts with apiVersion:, kind: and metadata:")
        return
    kind_mistake = _kind_mistake(data)
    if kind_mistake:
        yield kind_mistake
        return
    yield from _metadata_mistakes(data.get("metadata"))
    kind = kind_of(data)
    if kind.spec is None:
        return
    yield from _unknown(data, _OBJECT_FIELDS, "")
    if "spec" in data:
        yield from schema.mistakes(kind.spec, data["spec"])
    elif kind.needs_spec:
        yield Mistake("spec", "Required value")
    else:
        yield from schema.mistakes(kind.spec, {})


def _kind_mistake(data: Mapping[str, Any]) -> Mistake | None:
    for key, example in (("apiVersion", "networking.istio.io/v1"), ("kind", "VirtualService")):
        if not isinstance(data.get(key), str) or not data[key]:
            return Mistake(key, "Required value", f"write {key}: {example}")
    group, version = split(data["apiVersion"])
    name = data["kind"]
    kind = KINDS.get((group, name))
    if kind is None:
        return _unknown_kind(group, name)
    if version not in kind.versions and group in _STRICT_GROUPS:
        return Mistake("apiVersion", f"{name} has no version {version}", f"write {kind.api_version}")
    return None


def _unknown_kind(group: str, name: str) -> Mistake | None:
    elsewhere = [kind for kind in KINDS.values() if kind.name == name]
    if elsewhere and (group in _STRICT_GROUPS or not group or _nearly_strict(group)):
        return Mistake("apiVersion", f"{name} is not of the API group {group or 'core'}", f"write {elsewhere[0].api_version}")
    if group in _STRICT_GROUPS:
        known = [kind.name for kind in KINDS.values() if kind.group == group]
        advice = did_you_mean(name, known) or f"known in {group}: {', '.join(sorted(known))}"
        return Mistake("kind", f"unknown kind {name}", advice)
    if _nearly_strict(group):
        return Mistake("apiVersion", f"unknown API group {group}", did_you_mean(group, _STRICT_GROUPS))
    return None


def _nearly_strict(group: str) -> bool:
    return group.endswith("istio.io") or (not group.endswith(".k8s.io") and bool(did_you_mean(group, _STRICT_GROUPS)))


def _metadata_mistakes(metadata: Any) -> Iterator[Mistake]:
    if not isinstance(metadata, dict):
        yield Mistake("metadata", "Required value", "write metadata: with a name: inside")
        return
    if "generateName" in metadata:
        yield Mistake("metadata.generateName", "generated names are not supported", "write metadata.name")
        return
    yield from _unknown(metadata, _METADATA_FIELDS, "metadata")
    yield from _name_mistakes(metadata)
    yield from _map_mistakes(metadata.get("labels"), "metadata.labels", _LABEL_VALUE)
    yield from _map_mistakes(metadata.get("annotations"), "metadata.annotations", None)


def _name_mistakes(metadata: Mapping[str, Any]) -> Iterator[Mistake]:
    name = metadata.get("name")
    if name is None or name == "":
        yield Mistake("metadata.name", "Required value")
    elif not isinstance(name, str):
        yield Mistake("metadata.name", f"Invalid value: {name}: must be text", f'write it in quotes: "{name}"')
    elif len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        advice = f"for example {re.sub(r'[^a-z0-9.-]+', '-', name.lower()).strip('-.') or 'reviews'}"
        yield Mistake("metadata.name", f'Invalid value: "{name}": only a-z, 0-9, - and . are allowed', advice)
    namespace = metadata.get("namespace", "default")
    if not isinstance(namespace, str) or not _LABEL.fullmatch(namespace):
        problem = f'Invalid value: "{namespace}": only a-z, 0-9 and - are allowed, at most 63 characters'
        yield Mistake("metadata.namespace", problem)


def _map_mistakes(values: Any, path: str, value_form: re.Pattern[str] | None) -> Iterator[Mistake]:
    if values is None:
        return
    if not isinstance(values, dict):
        yield Mistake(path, "must be keys and values")
        return
    for key, value in values.items():
        prefix, slash, name = key.rpartition("/")
        good_prefix = not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix))
        if not (good_prefix and _QUALIFIED.fullmatch(name)):
            yield Mistake(child(path, key), f'Invalid value: "{key}": not a valid key', "for example app or example.com/app")
        if not isinstance(value, str):
            yield Mistake(child(path, key), "must be text", f'write it in quotes: "{str(value).lower()}"')
        elif value_form and not value_form.fullmatch(value):
            problem = f'Invalid value: "{value}": only letters, digits, -, _ and . are allowed, at most 63 characters'
            yield Mistake(child(path, key), problem)


def _unknown(data: Mapping[str, Any], known: tuple[str, ...], path: str) -> Iterator[Mistake]:
    for key in data:
        if key not in known:
            yield Mistake(child(path, key), f'unknown field "{key}"', did_you_mean(key, known))
