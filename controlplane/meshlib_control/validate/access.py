"""Roles and their bindings."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.access.roles import content, content_kind
from meshlib_control.kinds import schema
from meshlib_control.kinds.access import ClusterRoleBinding, RoleBinding
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a Role, a ClusterRole or a binding."""
    kind = content_kind(found.key)
    if kind is None:
        return
    wrong = schema.mistakes(kind, content(found.raw), "")
    yield from wrong
    if not wrong and issubclass(kind, RoleBinding):
        yield from _binding(schema.build(kind, content(found.raw)), cluster=kind is ClusterRoleBinding)


def _binding(binding: RoleBinding, *, cluster: bool) -> Iterator[Mistake]:
    if cluster and binding.role_ref.kind == "Role":
        yield Mistake("roleRef.kind", 'Unsupported value: "Role"', "a ClusterRoleBinding gives a ClusterRole")
    for index, subject in enumerate(binding.subjects):
        if subject.kind == "ServiceAccount" and cluster and not subject.namespace:
            yield Mistake(f"{item('subjects', index)}.namespace", "Required value", "the namespace of the service account")
