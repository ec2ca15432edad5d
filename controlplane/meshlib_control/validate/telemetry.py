"""Telemetry."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.kinds import Telemetry
from meshlib_control.kinds.telemetry import MetricsOverride
from meshlib_control.mistakes import Mistake, child, item
from meshlib_control.model import MeshObject
from meshlib_control.validate.common import target_references


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a Telemetry."""
    spec: Telemetry = found.spec
    yield from target_references(spec.selector, spec.target_ref, spec.target_refs, found.raw.get("spec", {}))
    for index, metrics in enumerate(spec.metrics):
        for number, override in enumerate(metrics.overrides):
            yield from _tags(override, item(f"{item('spec.metrics', index)}.overrides", number))
    for index, tracing in enumerate(spec.tracing):
        if "" in tracing.custom_tags:
            yield Mistake(f"{item('spec.tracing', index)}.customTags", "tag name may not be empty")


def _tags(override: MetricsOverride, path: str) -> Iterator[Mistake]:
    for name, tag in override.tag_overrides.items():
        place = child(f"{path}.tagOverrides", name)
        if tag.operation == "UPSERT" and not tag.value:
            yield Mistake(place, "value must be set when operation is UPSERT")
        if tag.operation == "REMOVE" and tag.value:
            yield Mistake(f"{place}.value", "value must not be set when operation is REMOVE")
