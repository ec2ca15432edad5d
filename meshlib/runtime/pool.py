"""Which idle connection to use and which to close: decisions on data, carried out by the shells.

Every method *returns* the connections to close; none touches a socket, none waits, none locks. The asyncio client calls them
from one loop, the blocking client under its lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from meshlib.config.model import Cluster, Endpoint
from meshlib.config.protection import ConnectionPolicy

# Below the keep-alive of the servers we meet (uvicorn: 5 s), so that we close first and no request meets a closing peer.
IDLE_SECONDS = 4.0


class Key(NamedTuple):
    """What makes two connections interchangeable.

    Args:
        sans: identities of which the peer proved one; empty for plain text.
        generation: of our certificate; 0 for plain text.
        policy: of a cluster whose connections are for it alone; None: clusters share them.
    """

    address: str
    port: int
    sans: frozenset[str]
    generation: int
    policy: ConnectionPolicy | None = None


_NO_SANS: frozenset[str] = frozenset()


def key_of(endpoint: Endpoint, cluster: Cluster, generation: int) -> Key:
    """The key under which a connection to this endpoint of this cluster is kept."""
    if endpoint.tls and cluster.tls is not None:
        return Key(endpoint.address, endpoint.port, cluster.tls.subject_alt_names, generation, cluster.connections)
    return Key(endpoint.address, endpoint.port, _NO_SANS, 0, cluster.connections)


class Aging(Protocol):
    """A connection that is used up some day."""

    @property
    def key(self) -> Key:
        """Where it leads."""

    @property
    def served(self) -> int:
        """Requests that it carried."""

    @property
    def opened(self) -> float:
        """When it was made."""


def worn(connection: Aging, now: float) -> bool:
    """Whether the cluster's policy wants no further request on a connection."""
    policy = connection.key.policy
    if policy is None:
        return False
    if policy.max_requests and connection.served >= policy.max_requests:
        return True
    return policy.max_duration is not None and now - connection.opened >= policy.max_duration


class Keyed(Protocol):
    """A connection as the pool sees it."""

    @property
    def key(self) -> Key:
        """Where it leads, and as whom."""


C = TypeVar("C", bound=Keyed)


@dataclass(slots=True)
class _Idle(Generic[C]):
    connection: C
    since: float


class Pool(Generic[C]):
    """Idle connections, newest first: those at the bottom grow old and go.

    Args:
        idle_seconds: how long a connection may wait for its next request, where its cluster says nothing else.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._idle: dict[Key, list[_Idle[C]]] = {}
        self._generation = 0
        self._swept = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def __repr__(self) -> str:
        return f"<Pool {len(self)} idle to {len(self._idle)} endpoints, certificate generation {self._generation}>"

    def take(self, key: Key, now: float) -> tuple[C | None, list[C]]:
        """The newest idle connection for `key`, and what is too old."""
        shelf = self._idle.get(key)
        if not shelf:
            return None, []
        idle = shelf.pop()
        if not shelf:
            del self._idle[key]
        if now - idle.since <= self._limit(key):
            return idle.connection, []
        rest = self._idle.pop(key, [])  # older still
        return None, [idle.connection, *(other.connection for other in rest)]

    def give(self, connection: C, now: float) -> list[C]:
        """Keep a connection that may carry another request; gives what to close, perhaps itself."""
        key = connection.key
        if key.generation and key.generation < self._generation:
            return [connection]
        self._idle.setdefault(key, []).append(_Idle(connection, now))
        return self.sweep(now) if now - self._swept > self._idle_seconds else []

    def sweep(self, now: float) -> list[C]:
        """Everything that waited too long, also towards endpoints that nobody asks for any more."""
        self._swept = now
        return self._remove(lambda idle: now - idle.since > self._limit(idle.connection.key))

    def renew(self, generation: int) -> list[C]:
        """Our certificate changed: connections that showed an older one are used no more."""
        if generation <= self._generation:
            return []
        self._generation = generation
        return self._remove(lambda idle: 0 < idle.connection.key.generation < generation)

    def discard(self, connection: C) -> None:
        """An idle connection died by itself."""
        self._remove(lambda idle: idle.connection is connection, connection.key)

    def drain(self) -> list[C]:
        """Everything: the client closes."""
        return self._remove(lambda _: True)

    def _limit(self, key: Key) -> float:
        policy = key.policy
        return self._idle_seconds if policy is None or policy.idle_timeout is None else policy.idle_timeout

    def _remove(self, condemned: _Verdict[C], key: Key | None = None) -> list[C]:
        keys = list(self._idle) if key is None else [key]
        removed: list[C] = []
        for each in keys:
            shelf = self._idle.pop(each, [])
            kept = [idle for idle in shelf if not condemned(idle)]
            removed += [idle.connection for idle in shelf if condemned(idle)]
            if kept:
                self._idle[each] = kept
        return removed


class _Verdict(Protocol[C]):
    def __call__(self, idle: _Idle[C], /) -> bool: ...
