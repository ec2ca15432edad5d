"""Who sees and who is selected: exportTo, and selectors by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshlib_control.kinds.common import TargetReference
from meshlib_control.model import MeshObject, Node, Service, World


def visibility(export_to: Sequence[str], home: str, client: str) -> int | None:
    """How an object of namespace `home` is shown to clients of namespace `client`, for ordering rivals.

    0: private to the client's namespace; 1: exported to it by name; 2: public; None: not visible.
    Istio: candidate order in VirtualServices(); no exportTo means public.
    """
    if not export_to or "*" in export_to:
        return 2
    named = {home if entry == "." else entry for entry in export_to}
    if client not in named:
        return None
    return 0 if client == home and set(export_to) <= {".", home} else 1


def visible(export_to: Sequence[str], home: str, client: str) -> bool:
    """Whether clients of namespace `client` may use an object of namespace `home`."""
    return visibility(export_to, home, client) is not None


def service_visible(world: World, service: Service, client: str) -> bool:
    """Whether clients of a namespace may call a service. Registered services are public."""
    declared = world.objects.get(service.origin) if service.origin else None
    return declared is None or visible(declared.spec.export_to, declared.key.namespace, client)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there. An empty selector selects everything."""
    return all(labels.get(name) == value for name, value in selector.items())


def attached(item: MeshObject, node: Node, port: int) -> bool:
    """Whether a policy of the security kinds is for a workload's port, by `selector` or by `targetRefs`.

    Istio's sidecars leave a policy with targetRefs to the waypoint of its Service. There are no waypoints here: who serves the
    Service obeys the policy, at the port where it serves it. Other targets have nobody to obey them.
    """
    spec = item.spec
    targets = spec.target_refs or ((spec.target_ref,) if spec.target_ref else ())
    if not targets:
        return selects(spec.selector.match_labels if spec.selector else {}, node.labels)
    return any(_serves(target, node, port) for target in targets) and item.key.namespace == node.namespace


def _serves(target: TargetReference, node: Node, port: int) -> bool:
    if (target.group, target.kind) not in {("", "Service"), ("core", "Service")}:
        return False
    return any(entry.service == target.name and entry.target_port == port for entry in node.registrations)
