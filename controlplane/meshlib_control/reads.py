"""What a translation read of its world and its node: its result holds for as long as all of that is the same.

Strategy: translation is handed a world and a node that look like the real ones and take notes. Nothing is declared by hand, so
no translation can forget what it depends on.

Rule 1: a mapping is noted key by key, a key that is missing too; who goes through a mapping depends on its keys as well.
Rule 2: of a node and of a service each field counts by itself: routes do not depend on endpoints.
Rule 3: the plain fields of a world (its trust domain) are not noted: where one of them differs, nothing is kept. Its revision
        is no fact that translation may read.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from meshlib_control.index import indexed
from meshlib_control.model import Node, Service, World

Path = tuple[Hashable, ...]
"""The way to a fact: fields and keys of mappings. The last step may be `KEYS`."""

KEYS: Final = ("its keys",)
_RECORDS: Final = (World, Node, Service)
_NODE, _SERVICE = (tuple(part.name for part in fields(kind)) for kind in (Node, Service))


class _NotedMapping(Mapping[Any, Any]):
    """A mapping that notes what is read of it."""

    __slots__ = ("_facts", "_notes", "_path")

    def __init__(self, facts: Mapping[Any, Any], path: Path, notes: set[Path]) -> None:
        self._facts, self._path, self._notes = facts, path, notes

    def __getitem__(self, key: Any) -> Any:
        path = (*self._path, key)
        if key not in self._facts:
            self._notes.add(path)
            raise KeyError(key)
        return _noted(self._facts[key], path, self._notes)

    def __iter__(self) -> Iterator[Any]:
        self._notes.add((*self._path, KEYS))
        return iter(self._facts)

    def __len__(self) -> int:
        self._notes.add((*self._path, KEYS))
        return len(self._facts)


class _Noting:
    """A frozen dataclass whose fields are noted one by one. A copy that somebody makes of it has read them all."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("_") or callable(found):
            return found
        notes: set[Path] | None = getattr(self, "_notes", None)
        return found if notes is None else _noted(found, (*self._path, name), notes)


class _NotedNode(_Noting, Node):
    __slots__ = ("_notes", "_path")


class _NotedService(_Noting, Service):
    __slots__ = ("_notes", "_path")


def _noted(found: Any, path: Path, notes: set[Path]) -> Any:
    if isinstance(found, Service):
        notes.add((*path, "hostname"))  # that it is there
        return _noting(_NotedService, found, path, notes)
    # Asking an abstract class is slow, and most facts are one of these.
    if not isinstance(found, str | tuple | list) and isinstance(found, Mapping):
        return _NotedMapping(found, path, notes)
    notes.add(path)
    return found


def _noting(kind: type[Any], source: Node | Service, path: Path, notes: set[Path]) -> Any:
    found = object.__new__(kind)
    for name in _NODE if kind is _NotedNode else _SERVICE:
        object.__setattr__(found, name, getattr(source, name))
    object.__setattr__(found, "_notes", notes)
    object.__setattr__(found, "_path", path)
    return found


def noted_world(world: World, notes: set[Path]) -> World:
    """The same world; what is read of it goes into `notes`."""
    known = indexed(world)
    noted: dict[str, Any] = {name: _NotedMapping(facts, (name,), notes) for name, facts in _mappings(known)}
    return replace(known, **noted)


def noted_node(node: Node, notes: set[Path]) -> Node:
    """The same node; what is read of it goes into `notes`."""
    found: Node = _noting(_NotedNode, node, (), notes)
    return found


def fact(source: World | Node, path: Path) -> Any:
    """What is at the end of a path; None where it leads nowhere."""
    found: Any = source
    for step in path:
        if step is KEYS:
            return tuple(found)
        found = getattr(found, str(step)) if isinstance(found, _RECORDS) else found.get(step)
        if found is None:
            return None
    return found


@dataclass(frozen=True, slots=True)
class Reads:
    """Paths into a world, and their first two steps: few, and enough to tell most worlds' differences apart."""

    paths: frozenset[Path]
    heads: frozenset[Path]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Reads:
        """What was noted."""
        found = frozenset(paths)
        return cls(found, frozenset(path[:2] for path in found))


@dataclass(slots=True)
class Difference:
    """What changed from one world to the next. Each path is compared once, by identity first.

    Args:
        heads: the beginnings of all paths to what changed.
    """

    old: World
    new: World
    heads: set[Path] = field(init=False)
    _known: dict[Path, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.heads = set(_changed_heads(self.old, self.new))

    @property
    def total(self) -> bool:
        """Whether nothing made of the old world counts for the new one (rule 3)."""
        return any(
            getattr(self.old, part.name) != getattr(self.new, part.name)
            for part in fields(World)
            if part.name != "revision" and not isinstance(getattr(self.old, part.name), Mapping)
        )

    def touches(self, reads: Reads) -> bool:
        """Whether the worlds differ in any of these."""
        return not self.heads.isdisjoint(reads.heads) and any(
            self._differs(path) for path in reads.paths if path[:2] in self.heads
        )

    def _differs(self, path: Path) -> bool:
        known = self._known.get(path)
        if known is None:
            before, after = fact(self.old, path), fact(self.new, path)
            known = self._known[path] = before is not after and bool(before != after)
        return known


def _changed_heads(old: World, new: World) -> Iterator[Path]:
    for name, before in _mappings(old):
        after: Mapping[Any, Any] = getattr(new, name)
        if before is after:
            continue
        if tuple(before) != tuple(after):
            yield name, KEYS
        for key in {**before, **after}:
            one, other = before.get(key), after.get(key)
            if one is not other and one != other:
                yield name, key


def _mappings(world: World) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for part in fields(world):
        value = getattr(world, part.name)
        if isinstance(value, Mapping):
            yield part.name, value
