"""Who trusts what: which clients have which roots, told by themselves.

    library      follows ROOTCA on its stream, and acknowledges it there
    Envoy        the same; what it trusts the control plane with is in files, see below
    gRPC         files only: their keeper gets roots with each certificate and asks for them in between (`trust_service`)

Rule 1: nobody is said to have roots who has not been given them or has not said so. What is not known counts as missing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .model import Node
from .xds.exchange import SyncState

LIBRARY = "library"  # Node.kind
MOST = 50_000  # files noted, the least recent are forgotten


def roots_version(roots: bytes) -> str:
    """Names a text of roots: equal texts have equal versions. What is revoked does not count: files have no place for it."""
    return hashlib.blake2b(roots, digest_size=8).hexdigest()


@dataclass(slots=True)
class KnownFiles:
    """Which roots are in files, by identity and instance. In memory only: their keepers tell it again within a minute."""

    _versions: OrderedDict[tuple[str, str], str] = field(default_factory=OrderedDict)

    def note(self, spiffe_id: str, instance: str, version: str) -> None:
        """Somebody was given roots with a certificate, or says what it has.

        Args:
            instance: the process's name as it says itself. Who says another's name delays or hastens a step of that one's
                own identity only.
        """
        key = (spiffe_id, instance)
        self._versions[key] = version
        self._versions.move_to_end(key)
        if len(self._versions) > MOST:
            self._versions.popitem(last=False)

    def version(self, node: Node) -> str | None:
        """The roots that a node's files hold; None: nothing is known of any."""
        return self._versions.get((node.spiffe_id, node.instance)) or self._versions.get((node.spiffe_id, ""))


def missing(
    streams: Iterable[tuple[Node, SyncState | None]], members: Iterable[Node], files: KnownFiles, version: str
) -> Iterator[str]:
    """The instances that do not have a version of the roots yet, or of which that is not known.

    Args:
        streams: each connected node, and how far it is with ROOTCA; None: it does not follow that.
        members: all who count as connected, so also those who are expected back after a restart.
    """
    connected = set[str]()
    for node, state in streams:
        connected.add(node.id)
        if not _has(node, state, files, version):
            yield node.instance
    yield from (node.instance for node in members if node.id not in connected)


def _has(node: Node, state: SyncState | None, files: KnownFiles, version: str) -> bool:
    told = files.version(node)
    facts = [] if state is None else [state is SyncState.SYNCED]
    if told is not None and (node.kind != LIBRARY or state is None):
        facts.append(told == version)
    return bool(facts) and all(facts)
