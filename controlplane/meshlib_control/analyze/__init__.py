"""What is wrong with objects that are each valid: what they refer to, how they disagree, what they cannot reach.

The codes are those of istioctl analyze where one fits. What has no effect yet is `effective`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from meshlib_control.analyze import conflicts, destinations, habits, mesh_wide, providers, tokens, unreachable
from meshlib_control.index import indexed
from meshlib_control.model import Finding, MeshObject, Severity, World

__all__ = ["analyze"]

_OF_OBJECT: Final[Mapping[str, tuple[Callable[[World, MeshObject], Iterator[Finding]], ...]]] = {
    "VirtualService": (
        destinations.virtual_service,
        lambda _, found: unreachable.rules(found),
        lambda _, found: habits.weights(found),
    ),
    "DestinationRule": (destinations.destination_rule,),
    "PeerAuthentication": (destinations.selector,),
    "RequestAuthentication": (destinations.selector, tokens.request_authentication),
    "AuthorizationPolicy": (destinations.selector, providers.policy),
}
_OF_WORLD: Final = (
    conflicts.virtual_services,
    conflicts.peer_authentications,
    conflicts.service_entries,
    mesh_wide.mesh_configuration,
    providers.services,
    providers.several,
)
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def analyze(world: World) -> list[Finding]:
    """Everything there is to say about a world's objects, the worst first, then by place."""
    known = indexed(world)
    found = [finding for one in known.objects.values() for finding in _about(known, one)]
    found += [finding for look in _OF_WORLD for finding in look(known)]
    return sorted(found, key=lambda one: (_ORDER[one.severity], one.file, one.line, one.code, one.field, one.message))


def _about(world: World, found: MeshObject) -> Iterator[Finding]:
    if found.spec is None:
        return
    for look in _OF_OBJECT.get(found.key.kind, ()):
        yield from look(world, found)
    yield from habits.deprecated_fields(found)
