"""ServiceEntry: services that do not register themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshlib_control.model import Node, Service, World


def declared_services(world: World, nodes: Iterable[Node]) -> Iterator[Service]:
    """Services that the world's ServiceEntries declare, the oldest first."""
    yield from ()
