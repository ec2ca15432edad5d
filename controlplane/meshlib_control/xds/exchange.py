"""The words of an xDS stream as plain values: what a client asks, what it is sent, what the operator sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol

from meshlib_control.model import ObjectKey, Resource
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

# What a resource refers to goes first (Istio: PushOrder). Types not listed follow in alphabetical order.
PUSH_ORDER = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET)


class Variant(Enum):
    """The two forms of ADS."""

    STATE_OF_THE_WORLD = "state of the world"
    DELTA = "delta"


@dataclass(frozen=True, slots=True)
class StateRequest:
    """A DiscoveryRequest. `error` is the text of a NACK; None for an ACK or a first request."""

    type_url: str
    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest.

    Args:
        initial_versions: what a reconnecting client holds already.
        error: the text of a NACK; None for everything else.
    """

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What goes out. `removed` is for delta only: names that do not exist (any more)."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


class View(Protocol):
    """The configuration of one moment as one node sees it."""

    @property
    def revision(self) -> int:
        """Differs whenever a resource may differ."""

    def changed_since(self, revision: int, type_url: str) -> Collection[str] | None:
        """The names that may differ from what they were at a revision; None: any may.

        A `*` among them: the wildcard of the type may mean other names.
        """

    def resource(self, type_url: str, name: str) -> Resource | None:
        """A resource; None if it does not exist for this node."""

    def names(self, type_url: str) -> Collection[str]:
        """What a wildcard subscription of this type means."""


class SyncState(Enum):
    """How far a client is with a type."""

    SYNCED = "SYNCED"
    STALE = "STALE"  # sent, not answered yet
    NACK = "NACK"
    NOT_SENT = "NOT SENT"


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """A type of one stream, for `ps`.

    Args:
        resources: how many the client holds.
        sent, acked: versions of the last response sent and the last one accepted; empty: none yet.
        error: why the client rejected; `objects` are those the rejected resources were made from.
    """

    type_url: str
    state: SyncState
    resources: int
    sent: str
    acked: str
    error: str = ""
    rejected: tuple[str, ...] = ()
    objects: tuple[ObjectKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One name that a client wants or holds, for `pc`.

    Args:
        sent: version of what it was sent last; empty: nothing, or it was taken away.
        accepted: what it acknowledged last; None: nothing, or before it reconnected.
        wanted: what it should have; None: there is no such resource.
        unanswered: a response about it was not answered yet.
        error: why it was rejected; `objects` are those it was made from.
    """

    name: str
    sent: str
    accepted: Resource | None
    wanted: Resource | None
    unanswered: bool = False
    error: str = ""
    objects: tuple[ObjectKey, ...] = ()

    @property
    def state(self) -> SyncState:
        """How far the client is with it."""
        if self.error:
            return SyncState.NACK
        wanted = self.wanted.version if self.wanted else ""
        if self.unanswered or self.sent != wanted:
            return SyncState.STALE
        return SyncState.SYNCED if wanted else SyncState.NOT_SENT
