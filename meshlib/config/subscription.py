"""The client side of delta xDS as a state table: facts in, facts out, no socket, no protobuf.

    wanted listeners ─> held LDS ─> names of RDS ─> held RDS ─> names of CDS ─> held CDS ─> names of EDS ─> held EDS
                                                        │
                                             visible: what readers see

Rule 1: a response is applied as a whole or not at all; one invalid resource means NACK and nothing changes.
Rule 2: make before break. New routes become visible when every cluster they name is there (with its endpoints) or known not
        to exist; until then the old ones stay, and so do the clusters that only they use.
Rule 3: what nobody needs is unsubscribed and forgotten.
Rule 4: a broken stream changes nothing for what is known; the next one is told the versions held.
Rule 5: a control plane that was started anew does not know everybody yet: services announce themselves by their own streams.
        After a reconnect, losses (a removal, an assignment without endpoints) wait until the grace is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from meshlib.config.model import Assignment, Cluster, OutboundListener, RouteConfiguration
from meshlib.config.policy import InboundListener
from meshlib.config.snapshot import EMPTY, Destination, Snapshot

_T = TypeVar("_T")

Value = OutboundListener | InboundListener | RouteConfiguration | Cluster | Assignment


class Kind(Enum):
    """The types of resources, in the order in which one names the next."""

    LISTENER = "LDS"
    ROUTE = "RDS"
    CLUSTER = "CDS"
    ASSIGNMENT = "EDS"


@dataclass(frozen=True, slots=True)
class Item:
    """A resource as received. An empty version is never announced to the control plane; `raw` is carried for the disk."""

    name: str
    version: str
    value: Value
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Update:
    """A delta response. `problem` says why it is invalid as a whole; then `items` do not count, and `refused` names all."""

    kind: Kind
    nonce: str
    items: tuple[Item, ...] = ()
    removed: tuple[str, ...] = ()
    problem: str = ""
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A delta request: a change of subscriptions, an ACK (`nonce`), a NACK (`nonce` and `problem`)."""

    kind: Kind
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    problem: str = ""


class Subscription:
    """What is wanted, subscribed, held and visible. One thread owns it; `snapshot` is for everybody."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = EMPTY
        self._wanted: dict[str, None] = {}  # a set that keeps the order
        self._connected = False
        self._answered = False
        self._in_grace = False
        self._losses: dict[tuple[Kind, str], Item | None] = {}  # held back during the grace; None: removed
        self._subscribed: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self._held: dict[Kind, dict[str, Item]] = {kind: {} for kind in Kind}
        self._gone: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self._visible_routes: dict[str, RouteConfiguration] = {}  # by listener
        self._visible_clusters: dict[str, Cluster] = {}

    @property
    def wanted_names(self) -> Set[str]:
        """The listeners asked for."""
        return self._wanted.keys()

    # What the process wants

    def want(self, names: Iterable[str]) -> tuple[Ask, ...]:
        """Listeners to follow from now on: `reviews:9080` or our own inbound ports."""
        self._wanted.update(dict.fromkeys(names))
        return self._settle()

    def forget(self, names: Iterable[str]) -> tuple[Ask, ...]:
        """Listeners that nobody needs any more, and with them all that only they named."""
        for name in names:
            self._wanted.pop(name, None)
        return self._settle()

    def restore(self, items: Mapping[Kind, Iterable[Item]], absent: Iterable[str] = ()) -> None:
        """Take what an earlier process held for what is not known yet; versions are dropped, so that all is sent anew."""
        for kind, restored in items.items():
            for item in restored:
                self._held[kind].setdefault(item.name, replace(item, version=""))
        self._gone[Kind.LISTENER].update(name for name in absent if name not in self._held[Kind.LISTENER])
        self._publish()

    # What the stream tells

    def on_connect(self, *, grace: bool) -> tuple[Ask, ...]:
        """A new stream: everything wanted, with the versions held. With `grace`, call `on_grace_over` some seconds later."""
        self._connected, self._answered = True, False
        self._in_grace = grace and any(self._held.values())
        self._losses.clear()
        for names in self._subscribed.values():
            names.clear()
        return self._settle()

    def on_disconnect(self) -> None:
        """The stream broke: what is known stays."""
        self._connected = False

    def on_grace_over(self) -> tuple[tuple[Ask, ...], bool]:
        """Losses that nothing made good since the reconnect are real."""
        self._in_grace = False
        for (kind, name), item in self._losses.items():
            self._apply(kind, name, item)
        self._losses.clear()
        before = self.snapshot
        return self._settle(), self.snapshot is not before

    def on_response(self, update: Update) -> tuple[tuple[Ask, ...], bool]:
        """Apply a response. Gives the requests to send, the ACK or NACK first, and whether the snapshot changed."""
        self._answered = True
        if update.problem:
            return (Ask(update.kind, nonce=update.nonce, problem=update.problem),), False
        self._accept(update)
        before = self.snapshot
        asks = self._settle()
        return (Ask(update.kind, nonce=update.nonce), *asks), self.snapshot is not before

    # What is kept for the next process

    def complete(self, listener: str) -> Mapping[Kind, tuple[Item, ...]] | None:
        """All resources behind a listener, if none is still on its way; else None."""
        item = self._held[Kind.LISTENER].get(listener)
        if item is None:
            return None
        found: dict[Kind, tuple[Item, ...]] = {Kind.LISTENER: (item,)}
        for upper, lower in _STEPS:
            names = _names_in(found[upper])
            if not all(self._is_settled(lower, name) for name in names):
                return None
            found[lower] = tuple(self._held_of(lower, names))
        return found

    # Inside

    def _accept(self, update: Update) -> None:
        news: list[tuple[str, Item | None]] = [(item.name, item) for item in update.items]
        news += [(name, None) for name in update.removed]
        for name, item in news:
            if name not in self._subscribed[update.kind]:  # an answer may cross our unsubscribing
                continue
            if self._in_grace and name in self._held[update.kind] and _is_loss(item):
                self._losses[update.kind, name] = item
            else:
                self._losses.pop((update.kind, name), None)
                self._apply(update.kind, name, item)

    def _apply(self, kind: Kind, name: str, item: Item | None) -> None:
        if item is not None:
            self._held[kind][name] = item
            self._gone[kind].discard(name)
        elif kind is not Kind.ROUTE or name not in self._held[kind]:
            # Envoy keeps a route configuration that is removed while a listener names it.
            self._held[kind].pop(name, None)
            self._gone[kind].add(name)

    def _settle(self) -> tuple[Ask, ...]:
        self._publish()
        needs = self._needs()
        if self._connected:
            asks = tuple(ask for kind in Kind if (ask := self._ask(kind, needs[kind])) is not None)
            if self._answered:  # until then what was restored may still be needed: a stream is no connection yet
                self._drop_unneeded(needs)
            return asks
        return ()

    def _ask(self, kind: Kind, needed: Mapping[str, None]) -> Ask | None:
        subscribed = self._subscribed[kind]
        new = tuple(name for name in needed if name not in subscribed)
        old = tuple(sorted(name for name in subscribed if name not in needed))
        if not new and not old:
            return None
        versions = {} if subscribed else self._versions(kind, new)
        subscribed.update(new)
        subscribed.difference_update(old)
        return Ask(kind, new, old, versions)

    def _versions(self, kind: Kind, names: Iterable[str]) -> Mapping[str, str]:
        """What a new stream is told in its first request of a kind, and only there (xDS: initial_resource_versions)."""
        if kind is Kind.LISTENER:
            return {}  # small, and always sent anew: so every stream begins with an answer, which shows that it works
        return {item.name: item.version for item in self._held_of(kind, names) if item.version}

    def _drop_unneeded(self, needs: Mapping[Kind, Mapping[str, None]]) -> None:
        for kind, needed in needs.items():
            held, gone = self._held[kind], self._gone[kind]
            for name in [name for name in held if name not in needed]:
                del held[name]
            gone.intersection_update(needed)

    def _needs(self) -> dict[Kind, dict[str, None]]:
        """The names of each kind that are wanted or still visible."""
        needs: dict[Kind, dict[str, None]] = {Kind.LISTENER: dict(self._wanted)}
        visible: dict[Kind, Iterable[Value]] = {
            Kind.ROUTE: self._visible_routes.values(),
            Kind.CLUSTER: self._visible_clusters.values(),
        }
        for upper, lower in _STEPS:
            names = dict.fromkeys(_names_in(self._held_of(upper, needs[upper])))
            for value in visible.get(upper, ()):
                names.update(dict.fromkeys(_named_by(value)))
            needs[lower] = names
        return needs

    def _publish(self) -> None:
        self._update_visible_clusters()
        self._update_visible_routes()
        self._prune_visible_clusters()
        fresh = self._snapshot()
        if not _same(fresh, self.snapshot):
            self.snapshot = fresh

    def _update_visible_clusters(self) -> None:
        for name in self._gone[Kind.CLUSTER]:
            self._visible_clusters.pop(name, None)
        for name, item in self._held[Kind.CLUSTER].items():
            assert isinstance(item.value, Cluster)
            if all(self._is_settled(Kind.ASSIGNMENT, needed) for needed in _named_by(item.value)):
                self._visible_clusters[name] = item.value

    def _update_visible_routes(self) -> None:
        for listener in [name for name in self._visible_routes if name not in self._wanted]:
            del self._visible_routes[listener]
        for listener in self._wanted:
            item = self._held[Kind.LISTENER].get(listener)
            if item is None or not isinstance(item.value, OutboundListener):
                if listener in self._gone[Kind.LISTENER]:
                    self._visible_routes.pop(listener, None)
                continue
            routes = self._routes(item.value.route_configuration)
            if routes is not None and all(self._is_cluster_settled(name) for name in _named_by(routes)):
                self._visible_routes[listener] = routes

    def _routes(self, name: str) -> RouteConfiguration | None:
        item = self._held[Kind.ROUTE].get(name)
        if item is not None:
            assert isinstance(item.value, RouteConfiguration)
            return item.value
        return _no_routes(name) if name in self._gone[Kind.ROUTE] else None

    def _is_settled(self, kind: Kind, name: str) -> bool:
        return name in self._held[kind] or name in self._gone[kind]

    def _is_cluster_settled(self, name: str) -> bool:
        return name in self._visible_clusters or name in self._gone[Kind.CLUSTER]

    def _prune_visible_clusters(self) -> None:
        needed = {name for routes in self._visible_routes.values() for name in _named_by(routes)}
        coming = _names_in(self._held_of(Kind.LISTENER, self._wanted))
        needed.update(_names_in(self._held_of(Kind.ROUTE, coming)))
        for name in [name for name in self._visible_clusters if name not in needed]:
            del self._visible_clusters[name]

    def _held_of(self, kind: Kind, names: Iterable[str]) -> list[Item]:
        held = self._held[kind]
        return [held[name] for name in names if name in held]

    def _snapshot(self) -> Snapshot:
        old = self.snapshot.destinations
        destinations = {
            name: _keep(old.get(name), self._destination(name, routes)) for name, routes in self._visible_routes.items()
        }
        listeners = {name: self._held[Kind.LISTENER][name].value for name in self._wanted if name in self._held[Kind.LISTENER]}
        return Snapshot(
            listeners=_frozen({n: v for n, v in listeners.items() if isinstance(v, OutboundListener) and n in destinations}),
            routes=_frozen({found.routes.name: found.routes for found in destinations.values()}),
            clusters=_frozen({name: one for found in destinations.values() for name, one in found.clusters.items()}),
            assignments=_frozen({name: one for found in destinations.values() for name, one in found.assignments.items()}),
            inbound=_frozen({n: v for n, v in listeners.items() if isinstance(v, InboundListener)}),
            absent=frozenset(name for name in self._gone[Kind.LISTENER] if name in self._wanted),
            destinations=_frozen(destinations),
        )

    def _destination(self, authority: str, routes: RouteConfiguration) -> Destination:
        named = _named_by(routes)
        clusters = {name: self._visible_clusters[name] for name in named if name in self._visible_clusters}
        held = self._held[Kind.ASSIGNMENT]
        assignments: dict[str, Assignment] = {}
        for cluster in clusters.values():
            item = held.get(cluster.assignment)
            if item is not None and isinstance(item.value, Assignment):
                assignments[item.name] = item.value
        return Destination(authority, routes, _frozen(clusters), _frozen(assignments))


_STEPS = ((Kind.LISTENER, Kind.ROUTE), (Kind.ROUTE, Kind.CLUSTER), (Kind.CLUSTER, Kind.ASSIGNMENT))


@lru_cache(maxsize=1024)  # one object per name: readers compare by identity
def _no_routes(name: str) -> RouteConfiguration:
    return RouteConfiguration(name, ())


def _names_in(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for item in items for name in _named_by(item.value)))


def _named_by(value: Value) -> tuple[str, ...]:
    """The resources of the next kind that this one names, each once."""
    match value:
        case OutboundListener():
            return (value.route_configuration,)
        case RouteConfiguration():
            shares = (share for host in value.virtual_hosts for route in host.routes for share in route.clusters)
            return tuple(dict.fromkeys(share.name for share in shares))
        case Cluster():
            return (value.assignment,) if value.assignment else ()
        case _:
            return ()


def _is_loss(item: Item | None) -> bool:
    if item is None:
        return True
    return isinstance(item.value, Assignment) and not any(endpoint.healthy for endpoint in item.value.endpoints)


def _frozen(values: dict[str, _T]) -> Mapping[str, _T]:
    return MappingProxyType(values)


def _keep(old: Destination | None, new: Destination) -> Destination:
    """The old object where nothing changed. By identity: comparing thousands of endpoints would cost more than it saves."""
    same = (
        old is not None
        and old.routes is new.routes
        and _same_values(old.clusters, new.clusters)
        and _same_values(old.assignments, new.assignments)
    )
    return old if same and old is not None else new


def _same_values(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return len(old) == len(new) and all(old.get(name) is value for name, value in new.items())


def _same(old: Snapshot, new: Snapshot) -> bool:
    return (
        _same_values(old.destinations, new.destinations)
        and _same_values(old.inbound, new.inbound)
        and old.absent == new.absent
    )
