"""Which certificates were given out, so that `ps` can show until when each client's is valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from .model import Node


@dataclass(slots=True)
class IssuedCertificates:
    """The newest certificate's end for each identity and instance.

    In memory only: after a restart it fills again as clients renew.
    """

    _ends: dict[tuple[str, str], datetime] = field(default_factory=dict)

    def note(self, spiffe_id: str, instance: str, not_after: datetime, now: datetime) -> None:
        """A certificate was issued.

        Args:
            instance: the process's name as it says itself; empty if it does not say. For display only.
        """
        for key in [key for key, ends in self._ends.items() if ends <= now]:
            del self._ends[key]
        self._ends[(spiffe_id, instance)] = not_after

    def expires(self, node: Node) -> float | None:
        """When the newest certificate of a client ends, in seconds since the epoch; None if none was issued to it here."""
        ends = self._ends.get((node.spiffe_id, node.instance)) or self._ends.get((node.spiffe_id, ""))
        return ends.timestamp() if ends else None
