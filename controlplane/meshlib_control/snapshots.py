"""The published world, and the resources made of it so far.

Rule 1: readers get one world; a `NodeView` never mixes two.
Rule 2: a resource is translated once per world and kind of view, when the first client asks. Nodes that translation cannot
        tell apart (same kind, namespace and labels) share it.
Rule 3: a fault of ours in translating one resource neither ends the stream of a client (its lease) nor takes the resource
        away: what the previous world gave stays.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from meshlib_control.model import Node, Resource, World
from meshlib_control.translate import translate, wildcard_names

_log = logging.getLogger(__name__)

ViewKey = tuple[str, str, tuple[tuple[str, str], ...]]
Place = tuple[ViewKey, str, str]  # view, type_url, name


def view_key(node: Node) -> ViewKey:
    """What translation looks at in a node that asks."""
    return (node.kind, node.namespace, tuple(sorted(node.labels.items())))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One world and what was made of it. Resources are only ever added, so readers need no lock.

    Args:
        previous: what was made of the world before.
    """

    world: World
    made: dict[Place, Resource] = field(default_factory=dict)
    previous: Mapping[Place, Resource] = field(default_factory=dict)

    def view(self, node: Node) -> NodeView:
        """This world as a node sees it."""
        return NodeView(self, node, view_key(node))


@dataclass(frozen=True, slots=True)
class NodeView:
    """A world as one node sees it: what a subscription table asks."""

    snapshot: Snapshot
    node: Node
    key: ViewKey

    @property
    def revision(self) -> int:
        """The world's revision."""
        return self.snapshot.world.revision

    def resource(self, type_url: str, name: str) -> Resource | None:
        """A resource; None if it does not exist for this node."""
        place = (self.key, type_url, name)
        made = self.snapshot.made.get(place) or self._translated(place)
        if made is not None:  # absent names are not kept: there is no end to them
            self.snapshot.made[place] = made
        return made

    def _translated(self, place: Place) -> Resource | None:
        _, type_url, name = place
        try:
            return translate(self.snapshot.world, self.node, type_url, name)
        except Exception:  # rule 3
            _log.exception("translating %s %s failed; its clients keep what they have", type_url, name)
            return self.snapshot.previous.get(place)

    def names(self, type_url: str) -> Collection[str]:
        """What a wildcard subscription of this type means."""
        return wildcard_names(self.snapshot.world, self.node, type_url)


class Snapshots:
    """Holds the current snapshot; publishing swaps it at once for all readers."""

    def __init__(self, world: World | None = None) -> None:
        self._current = Snapshot(world or World())
        self._lock = threading.Lock()

    @property
    def current(self) -> Snapshot:
        """The snapshot that holds now."""
        return self._current

    def publish(self, world: World) -> bool:
        """Makes a world the current one; False for one older than the current, which is ignored."""
        with self._lock:
            if world.revision < self._current.world.revision:
                return False
            self._current = Snapshot(world, previous=self._current.made)
        return True
