"""When the root is replaced: the steps are `ca_roots`', here is what each one waits for.

    begin    somebody asked for it
    switch   every connected client has the new root
    retire   the last certificate of the old root is over

Rule 1: an operator begins, and the rest happens by itself: there is no wrong order of commands.
Rule 2: hurrying is possible at any step and says what it costs: who is not ready has to join again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from .ca_roots import KeptRoots, Phase, described
from .looking import looking

_log = logging.getLogger(__name__)


class Replacing(Protocol):
    """What replaces an authority while everything runs: `Rotation` its own root, `ca_plugged` what others made."""

    def begin(self) -> None:
        """Begin. Raises SettingsError where that is not possible now, or not here."""

    def step(self, *, hurry: bool = False) -> bool:
        """Take the next step if it is due, or in any case with `hurry`. Returns whether one was taken."""

    def status(self) -> dict[str, Any]:
        """How it stands, for people and programs."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Takes each step when it is due."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Replaces the root of a mesh while everything runs.

    Args:
        kept: the roots.
        missing: names of clients that do not have the roots of now.
        clock: the time of day, UTC.
    """

    kept: KeptRoots
    missing: Callable[[], list[str]]
    clock: Callable[[], datetime]

    def begin(self) -> None:
        """Make the next root and begin to distribute it.

        Raises:
            SettingsError: a replacement is under way.
            CannotStart: the disk does not take it; nothing was changed.
        """
        self.kept.begin(self.clock())
        _log.warning("a new root is being distributed; the one in use goes on signing")

    def step(self, *, hurry: bool = False) -> bool:
        """Take the next step if it is due, or in any case with `hurry`. Returns whether one was taken.

        Raises:
            CannotStart: the disk does not take it; nothing was changed.
        """
        match self.kept.roots.phase:
            case Phase.DISTRIBUTING if hurry or not self.missing():
                self.kept.switch(self.clock())
                _log.warning("the new root signs; the old one is trusted until %s", self.kept.roots.old_until)
            case Phase.RETIRING if hurry or self._is_over():
                self.kept.retire()
                _log.warning("the old root is trusted no more")
            case _:
                return False
        return True

    def running(self) -> AbstractAsyncContextManager[None]:
        """Takes each step when it is due. A replacement that was under way when the control plane ended goes on."""
        return looking(self.step, "the root's replacement cannot go on", _log)

    def status(self) -> dict[str, Any]:
        """How it stands, for people and programs."""
        roots = self.kept.roots
        return {
            "phase": roots.phase.value,
            "roots": [described(one, signs=one is roots.signing.certificate) for one in roots.trusted],
            "waitingFor": sorted(self.missing()) if roots.phase is Phase.DISTRIBUTING else [],
            "oldRootUntil": roots.old_until.isoformat().replace("+00:00", "Z") if roots.old_until else "",
        }

    def _is_over(self) -> bool:
        until = self.kept.roots.old_until
        return until is not None and self.clock() > until
