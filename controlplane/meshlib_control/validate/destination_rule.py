"""DestinationRule."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.kinds import DestinationRule
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats, traffic_policy
from meshlib_control.validate.common import export_to, labels, selector, told


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a DestinationRule."""
    spec: DestinationRule = found.spec
    yield from told("spec.host", formats.wildcard_host(spec.host))
    yield from traffic_policy.check(spec.traffic_policy, "spec.trafficPolicy")
    seen: set[str] = set()
    for index, subset in enumerate(spec.subsets):
        path = item("spec.subsets", index)
        if subset.name in seen:
            yield Mistake(f"{path}.name", f"duplicate subset names: {subset.name}")
        seen.add(subset.name)
        yield from told(f"{path}.name", formats.label(subset.name))
        yield from labels(subset.labels, f"{path}.labels")
        yield from traffic_policy.check(subset.traffic_policy, f"{path}.trafficPolicy")
    yield from export_to(spec.export_to, found.key.namespace)
    yield from selector(spec.workload_selector, "spec.workloadSelector")
    yield from _selected_is_private(spec, found.key.namespace)


def _selected_is_private(spec: DestinationRule, namespace: str) -> Iterator[Mistake]:
    if spec.workload_selector is not None and set(spec.export_to) - {".", namespace}:
        yield Mistake("spec.exportTo", "a rule with workloadSelector cannot be exported beyond its own namespace")
