"""PeerAuthentication: what a workload's port accepts.

Istio: ComposePeerAuthentication. Port beats workload beats namespace beats mesh (the root namespace); UNSET inherits; of
rivals in one scope the oldest wins; a workload policy in the root namespace is ignored; PERMISSIVE if nobody says anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshlib.config.model import PeerMode
from meshlib_control.kinds import PeerAuthentication
from meshlib_control.kinds.security import MutualTls
from meshlib_control.model import MeshObject, World
from meshlib_control.translate.scope import selects


@dataclass(frozen=True, slots=True)
class PeerRule:
    """The mode of a port, and what said so: nothing, if it is the default."""

    mode: PeerMode = PeerMode.PERMISSIVE
    item: MeshObject | None = None
    field: str = ""


def peer_rule(world: World, namespace: str, labels: Mapping[str, str], port: int) -> PeerRule:
    """What a workload's port accepts.

    Args:
        namespace, labels: of the workload.
        port: where the workload listens, not the service's port.
    """
    policies = [item for item in world.of_kind("PeerAuthentication") if isinstance(item.spec, PeerAuthentication)]
    mesh = _first(policies, world.root_namespace)
    home = _first(policies, namespace)
    workload = _workload_policy(world, policies, namespace, labels)
    rule = PeerRule()
    for item in (mesh, home, workload):
        rule = _narrowed(rule, item, item.spec.mtls if item else None, "spec.mtls")
    if workload is None:
        return rule
    return _narrowed(rule, workload, workload.spec.port_level_mtls.get(str(port)), f"spec.portLevelMtls.{port}")


def _first(policies: list[MeshObject], namespace: str) -> MeshObject | None:
    """The oldest policy for a whole namespace. `of_kind` has put the oldest first."""
    return next((item for item in policies if item.key.namespace == namespace and not _selector(item)), None)


def _workload_policy(world: World, policies: list[MeshObject], namespace: str, labels: Mapping[str, str]) -> MeshObject | None:
    if namespace == world.root_namespace:
        return None
    mine = (item for item in policies if item.key.namespace == namespace and _selector(item))
    return next((item for item in mine if selects(_selector(item), labels)), None)


def _selector(item: MeshObject) -> Mapping[str, str]:
    return item.spec.selector.match_labels if item.spec.selector else {}


def _narrowed(rule: PeerRule, item: MeshObject | None, mtls: MutualTls | None, field: str) -> PeerRule:
    if item is None or mtls is None or mtls.mode == "UNSET":
        return rule
    return PeerRule(PeerMode[mtls.mode], item, field)
