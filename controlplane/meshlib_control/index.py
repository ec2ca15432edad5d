"""A World that has looked through its objects once: translation asks for kinds and hosts with every resource."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from meshlib_control import names
from meshlib_control.kinds import DestinationRule, VirtualService
from meshlib_control.model import MeshObject, World

_HOSTS: Final[Mapping[str, tuple[type[Any], Callable[[Any], Sequence[str]]]]] = {
    "VirtualService": (VirtualService, lambda spec: spec.hosts),
    "DestinationRule": (DestinationRule, lambda spec: (spec.host,)),
}

ByHost = Mapping[str, Mapping[str, Sequence[MeshObject]]]


@dataclass(frozen=True, slots=True)
class IndexedWorld(World):
    """A world with its indexes.

    Args:
        by_kind: objects of a kind, oldest first.
        by_host: kind -> full host, maybe a wildcard -> objects that name it, oldest first.
        wildcards: kind -> the wildcards among the hosts.
    """

    by_kind: Mapping[str, list[MeshObject]] = field(default_factory=dict)
    by_host: ByHost = field(default_factory=dict)
    wildcards: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[MeshObject]:
        """Objects of a kind, oldest first."""
        return self.by_kind.get(kind, [])


def indexed(world: World) -> IndexedWorld:
    """The same world with indexes."""
    if isinstance(world, IndexedWorld):
        return world
    by_kind = {kind: world.of_kind(kind) for kind in {key.kind for key in world.objects}}
    by_host = {kind: _by_host(kind, by_kind.get(kind, ()), world.domain_suffix) for kind in _HOSTS}
    return IndexedWorld(
        **{part.name: getattr(world, part.name) for part in fields(World)},
        by_kind=MappingProxyType(by_kind),
        by_host=MappingProxyType(by_host),
        wildcards=MappingProxyType({kind: [host for host in by_host[kind] if names.is_wildcard(host)] for kind in _HOSTS}),
    )


def _by_host(kind: str, items: Sequence[MeshObject], domain: str) -> dict[str, list[MeshObject]]:
    struct, hosts_of = _HOSTS[kind]
    found: dict[str, list[MeshObject]] = defaultdict(list)
    for item in items:
        if isinstance(item.spec, struct):
            for host in dict.fromkeys(names.resolve(host, item.key.namespace, domain) for host in hosts_of(item.spec)):
                found[host].append(item)
    return dict(found)


def rivals(world: World, kind: str, host: str) -> Iterator[tuple[str, Sequence[MeshObject]]]:
    """Hosts of VirtualServices or DestinationRules that cover a host, the most specific first, with their objects."""
    known = indexed(world)
    by_host = known.by_host[kind]
    covering = [pattern for pattern in known.wildcards[kind] if pattern != host and names.covers(pattern, host)]
    for pattern in (host, *sorted(covering, key=names.specificity)):
        if pattern in by_host:
            yield pattern, by_host[pattern]
