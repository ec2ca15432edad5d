"""The mesh configuration against what the control plane was started with."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control import mesh_config
from meshlib_control.analyze.finding import finding
from meshlib_control.model import Finding, Severity, World

DISAGREES = "MSH0004"


def mesh_configuration(world: World) -> Iterator[Finding]:
    """A trust domain or a root namespace that is not the control plane's."""
    found = world.objects.get(mesh_config.KEY)
    if found is None:
        return
    for name, wanted, real, advice in (
        ("trustDomain", world.mesh.trust_domain, world.trust_domain, "meshlib controlplane --trust-domain sets it"),
        ("rootNamespace", world.mesh.root_namespace, world.root_namespace, "it cannot be changed yet"),
    ):
        if wanted not in {"", real}:
            message = f"{name} is {real}, not {wanted}: this field does not change it"
            yield finding(DISAGREES, Severity.ERROR, found, f"{mesh_config.FIELD}.{name}", message, advice)
