"""The whole configuration at one moment: immutable, swapped as one, read without locks.

Rule 1: a `Destination` is complete. Every cluster that its routes name is in `clusters`, or the control plane said that it
does not exist; every assignment that a cluster names likewise. Deciding rooms need no waiting and no None for "later".
Rule 2: an unchanged destination stays the same object over snapshots: what readers derive from it may be kept by identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from meshlib.config.model import Assignment, Cluster, OutboundListener, RouteConfiguration
from meshlib.config.policy import InboundListener

DEFAULT_PORT = 80


class Absent(Enum):
    """The answer "this host is not in the mesh": `isinstance(found, Absent)` or `found is ABSENT`."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Destination:
    """All that decides where a request to one authority goes.

    Args:
        authority: normalised, `reviews:9080`; the name of the listener.
        routes: the rules in force.
        clusters: by name; one that a route names and that is missing here does not exist (NC).
        assignments: by `Cluster.assignment`; a missing one means a cluster without endpoints (UH).
    """

    authority: str
    routes: RouteConfiguration
    clusters: Mapping[str, Cluster]
    assignments: Mapping[str, Assignment]


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in force now.

    Args:
        listeners, routes, clusters, assignments: the resources in force, by name.
        inbound: our own ports, by resource name.
        absent: names of listeners that the control plane says do not exist.
        destinations: by normalised authority; only complete ones.
    """

    listeners: Mapping[str, OutboundListener] = field(default_factory=_nothing)
    routes: Mapping[str, RouteConfiguration] = field(default_factory=_nothing)
    clusters: Mapping[str, Cluster] = field(default_factory=_nothing)
    assignments: Mapping[str, Assignment] = field(default_factory=_nothing)
    inbound: Mapping[str, InboundListener] = field(default_factory=_nothing)
    absent: frozenset[str] = frozenset()
    destinations: Mapping[str, Destination] = field(default_factory=_nothing)

    def destination(self, authority: str) -> Destination | Absent | None:
        """What is known about an authority: its destination, that it is not in the mesh, or None: nobody asked yet."""
        found = self.destinations.get(authority)
        if found is not None:
            return found
        name = listener_name(authority)
        if name is None or name in self.absent:
            return ABSENT
        return self.destinations.get(name)


EMPTY = Snapshot()


@lru_cache(maxsize=4096)
def listener_name(authority: str) -> str | None:
    """The listener to ask for: lower case, with a port. None for what is never in the mesh: IP literals and localhost.

    Args:
        authority: as in the Host header: `Reviews`, `reviews.default:9080`, `[::1]:80`.
    """
    host, port = _split(authority.lower())
    host = host.removesuffix(".")
    if not host or _is_local_or_address(host):
        return None
    return f"{host}:{port or DEFAULT_PORT}"


def _split(authority: str) -> tuple[str, str]:
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:  # no colon at all, or only those inside an IPv6 literal
        return authority, ""
    return host, port


def _is_local_or_address(host: str) -> bool:
    # "a host whose last label is a number is an IPv4 address" (WHATWG URL, host parsing): no DNS name ends in one.
    last = host.rpartition(".")[2]
    return host.startswith("[") or ":" in host or last.isdigit() or last == "localhost"
