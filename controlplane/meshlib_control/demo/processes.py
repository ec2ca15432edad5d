"""A handful of processes that start together and end together.

Each child leads a process group of its own: Ctrl-C in the terminal reaches only us, and we end the children in order. If we
are killed outright, Linux ends them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Group:
    """Children by name, their output in one file each.

    Args:
        logs: folder for `NAME.log`.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path | None = None) -> None:
        """Starts a child. Raises OSError if its program cannot be started."""
        with self.log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def log(self, name: str) -> Path:
        """Where a child writes."""
        return self._logs / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: child.pid for name, child in self._children.items()}

    def ended(self) -> str | None:
        """The name of a child that has ended although nobody asked it to, if any."""
        return next((name for name, child in self._children.items() if child.poll() is not None), None)

    def stop(self) -> None:
        """Ends all, the last started first, each with its whole process group; returns when none is left."""
        for child in reversed(self._children.values()):
            _signal(child, signal.SIGTERM)
        give_up = time.monotonic() + GRACE
        for child in self._children.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, give_up - time.monotonic()))
            _signal(child, signal.SIGKILL)  # the group may outlive its leader
            child.wait()
        self._children.clear()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(child.pid, number)
