"""The published world, and the resources made of it so far.

Rule 1: readers get one world; a `NodeView` never mixes two.
Rule 2: a resource is translated once, when the first client asks. It is shared by all nodes that translation cannot tell
        apart, and kept in the next worlds for as long as what translation read is the same (`reads`).
Rule 3: a fault of ours in translating one resource neither ends the stream of a client (its lease) nor takes the resource
        away: what the previous world gave stays.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from meshlib_control.index import indexed
from meshlib_control.model import Node, Resource, World
from meshlib_control.reads import Difference, Path, Reads, fact, noted_node, noted_world
from meshlib_control.translate import translate, wildcard_names

_log = logging.getLogger(__name__)

WILDCARD: Final = "*"
Place = tuple[str, str]
"""A type_url and a name; `WILDCARD`: the names that the wildcard of the type means."""


@dataclass(frozen=True, slots=True)
class Made:
    """What translation gave, and what it read of the world for it. No result: there is no such resource."""

    result: Any
    reads: Reads


Variants = Mapping[tuple[Path, ...], Mapping[tuple[Any, ...], Made]]
"""What was made of one place: by what was read of the node, then by what that was."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was made so far. Whole entries are put in place of others, so readers need no lock.

    Args:
        places: what was made, by place.
        readers: the places that read something, by the beginnings of its paths. It may name too many, and is shared with the
            memories of later worlds.
    """

    places: dict[Place, Variants] = field(default_factory=dict)
    readers: dict[Path, set[Place]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How much it is, of whatever there is most."""
        return max(len(self.places), len(self.readers))

    def find(self, place: Place, node: Node) -> Made | None:
        """What was made for a node that looks like this one."""
        for paths, by_facts in self.places.get(place, {}).items():
            found = by_facts.get(_facts(node, paths))
            if found is not None:
                return found
        return None

    def add(self, place: Place, node: Node, paths: Collection[Path], made: Made) -> None:
        """Remember what was made for a node, of which `paths` were read."""
        known = tuple(sorted(paths, key=repr))
        variants = self.places.get(place, {})
        self.places[place] = {**variants, known: {**variants.get(known, {}), _facts(node, known): made}}
        self._note_reader(place, made)

    def kept(self, difference: Difference) -> tuple[Memory, Mapping[str, frozenset[str]]]:
        """What still holds in the new world, and the names, by type, of what does not."""
        memory, touched = Memory(dict(self.places), self.readers), defaultdict[str, set[str]](set)
        for place in {place for head in difference.heads for place in list(self.readers.get(head, ()))}:
            variants = memory.places.pop(place, {})
            held = {paths: _untouched(by_facts, difference) for paths, by_facts in variants.items()}
            if any(held.values()):
                memory.places[place] = {paths: by_facts for paths, by_facts in held.items() if by_facts}
            if any(len(by_facts) < len(variants[paths]) for paths, by_facts in held.items()):
                touched[place[0]].add(place[1])
        return memory, {type_url: frozenset(names) for type_url, names in touched.items()}

    def only(self, wanted: Container[Place]) -> Memory:
        """What is of wanted places."""
        memory = Memory({place: variants for place, variants in list(self.places.items()) if place in wanted})
        for place, variants in memory.places.items():
            for by_facts in variants.values():
                for made in by_facts.values():
                    memory._note_reader(place, made)
        return memory

    def _note_reader(self, place: Place, made: Made) -> None:
        for head in made.reads.heads:
            self.readers.setdefault(head, set()).add(place)


def _untouched(by_facts: Mapping[tuple[Any, ...], Made], difference: Difference) -> dict[tuple[Any, ...], Made]:
    return {facts: made for facts, made in by_facts.items() if not difference.touches(made.reads)}


def _facts(node: Node, paths: tuple[Path, ...]) -> tuple[Any, ...]:
    return tuple([fact(node, path) for path in paths])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One world and what was made of it.

    Args:
        memory: what was made so far.
        previous: what was made of the world before.
        base: that world's revision.
        touched: what may differ from it: names by type. None: everything.
    """

    world: World
    memory: Memory = field(default_factory=Memory)
    previous: Memory = field(default_factory=Memory)
    base: int = -1
    touched: Mapping[str, frozenset[str]] | None = None

    def view(self, node: Node) -> NodeView:
        """This world as a node sees it."""
        return NodeView(self, node)

    def changed_since(self, revision: int, type_url: str) -> frozenset[str] | None:
        """Names of a type that may differ from what they were in an earlier world; None: any may.

        Names that nobody has asked for count as well, but are not listed.
        """
        if revision == self.world.revision:
            return frozenset()
        return self.touched.get(type_url, frozenset()) if self.touched is not None and revision == self.base else None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A world as one node sees it: what a subscription table asks."""

    snapshot: Snapshot
    node: Node

    @property
    def revision(self) -> int:
        """The world's revision."""
        return self.snapshot.world.revision

    def changed_since(self, revision: int, type_url: str) -> frozenset[str] | None:
        """Names that may differ from what they were in an earlier world; None: any may. `WILDCARD`: there are others."""
        return self.snapshot.changed_since(revision, type_url)

    def resource(self, type_url: str, name: str) -> Resource | None:
        """A resource; None if it does not exist for this node."""
        found: Resource | None = self._made((type_url, name), None)
        return found

    def names(self, type_url: str) -> Collection[str]:
        """What a wildcard subscription of this type means."""
        found: frozenset[str] = self._made((type_url, WILDCARD), frozenset())
        return found

    def _made(self, place: Place, nothing: Any) -> Any:
        made = self.snapshot.memory.find(place, self.node)
        if made is None:
            paths = set[Path]()
            made = self._translated(place, nothing, paths)
            self.snapshot.memory.add(place, self.node, paths, made)
        return made.result

    def _translated(self, place: Place, nothing: Any, paths: set[Path]) -> Made:
        reads = set[Path]()
        world, node = noted_world(self.snapshot.world, reads), noted_node(self.node, paths)
        type_url, name = place
        try:
            if name == WILDCARD:
                return Made(frozenset(wildcard_names(world, node, type_url)), Reads.of(reads))
            return Made(translate(world, node, type_url, name), Reads.of(reads))
        except Exception:  # rule 3
            _log.exception("translating %s %s failed; its clients keep what they have", type_url, name)
            before = self.snapshot.previous.find(place, self.node)
            return Made(before.result if before else nothing, Reads.of(reads))


class Snapshots:
    """Holds the current snapshot; publishing swaps it at once for all readers."""

    def __init__(self, world: World | None = None) -> None:
        self._current = Snapshot(world or World())
        self._lock = threading.Lock()

    @property
    def current(self) -> Snapshot:
        """The snapshot that holds now."""
        return self._current

    @property
    def size(self) -> int:
        """How much is remembered."""
        return self._current.memory.size

    def publish(self, world: World) -> bool:
        """Makes a world the current one; False for one older than the current, which is ignored."""
        with self._lock:
            if world.revision < self._current.world.revision:
                return False
            self._current = _successor(self._current, world)
        return True

    def forget_all_but(self, wanted: Container[Place]) -> None:
        """Forget what was made of places that nobody wants any more: they come without end."""
        with self._lock:
            current = self._current
            self._current = replace(current, memory=current.memory.only(wanted), previous=Memory())


def _successor(current: Snapshot, world: World) -> Snapshot:
    difference = Difference(indexed(current.world), indexed(world))
    if difference.total:
        return Snapshot(world, previous=current.memory)
    memory, touched = current.memory.kept(difference)
    return Snapshot(world, memory, current.memory, current.world.revision, touched)


def places(type_url: str, names: Collection[str]) -> Iterator[Place]:
    """The places of a type's names, with its wildcard."""
    yield type_url, WILDCARD
    for name in names:
        yield type_url, name
