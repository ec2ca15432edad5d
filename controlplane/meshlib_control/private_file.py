"""Secrets on disk: written so that nobody else can read them at any moment, and refused if somebody can.

Strategy: create with mode 0600 under another name, then rename. A reader sees the old file or the whole new one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .errors import CannotStart

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read (mode 0600).

    Raises:
        CannotStart: the folder cannot be written, the disk is full.
    """
    replace_file(path, content, mode=0o600)


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put `content` at `path` in one step; a crash leaves the old file whole.

    Raises:
        CannotStart: the folder cannot be written, the disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(draft, content, mode)
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise CannotStart(
            f"cannot write {path}: {error.strerror}", "make room, or choose another folder: --data DIR"
        ) from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def read_private(path: Path) -> bytes:
    """The content of a secret file.

    Raises:
        CannotStart: it is missing, or others may read or write it: then it may be known to them already.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise CannotStart(f"cannot read {path}: {error.strerror}", f"ls -l {path.parent}") from error
    if mode & _OTHERS:
        raise CannotStart(
            f"{path} can be read by other users (mode {stat.S_IMODE(mode):04o}), so its secret may be known to them",
            f"chmod 600 {path}  if nobody can have read it; otherwise remove it, and a new one is made at the next start",
        )
    return content
