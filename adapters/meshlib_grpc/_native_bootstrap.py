"""The one bootstrap of this process: a private folder with our certificate, kept fresh, and the variable that points to it.

grpcio's core reads `GRPC_XDS_BOOTSTRAP` once, when its first xDS channel connects or its first xDS server is made. So there is
one `Joined` a process, and what it said at first stays said.
Rule 1: a bootstrap that the user has set is the user's: nothing of ours is made or started.
Rule 2: what a parent process set is not ours: we would share its identity, its registration, and files that it removes.
Rule 3: no key outlives the process on disk; what a killed one left is removed by the next.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meshlib.errors import SettingsError
from meshlib.runtime.addresses import own_address
from meshlib.runtime.certificate_files import CertificateFolder, CertificateKeeper
from meshlib.runtime.grpc_bootstrap import bootstrap
from meshlib.runtime.settings import Settings

VARIABLE, INLINE_VARIABLE = "GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG"
OWNER_VARIABLE = "MESHLIB_GRPC_BOOTSTRAP_PID"
"""Which process set the bootstrap: tells ours from the user's, and from one that a parent left in the environment."""

_PREFIX, _LOCK = "meshlib-grpc-", "lock"


@dataclass(slots=True)
class Joined:
    """What runs for grpcio's xDS in this process."""

    settings: Settings
    target_port: int
    keeper: CertificateKeeper
    lock: int  # descriptor of a locked file: the folder is in use as long as it is open
    pid: int = field(default_factory=os.getpid)
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Renew from now on, and clean up at the end of the process."""
        threading.Thread(target=self.keeper.run, args=(self.stopped,), name="meshlib-grpc-certificates", daemon=True).start()
        atexit.register(self.end)

    def end(self) -> None:
        """No more renewals; the folder with the key is removed."""
        if self.pid == os.getpid():
            self.stopped.set()
            shutil.rmtree(self.keeper.place.path.parent, ignore_errors=True)


_lock = threading.Lock()
_joined: Joined | None = None


def join(settings: Settings, target_port: int, timeout: float) -> None:
    """Make grpcio's xDS ready in this process. Idempotent.

    Args:
        target_port: where a server of this process listens; it is registered as an endpoint of `settings.service`. 0: none.
        timeout: seconds to wait for the first certificate.

    Raises:
        SettingsError: the process has joined already, as somebody else or without this server.
        MeshError: why there is no certificate.
    """
    global _joined
    with _lock:
        if _is_the_users():
            return
        if _joined is None or _joined.pid != os.getpid():
            _joined = _join(settings, target_port, timeout)
        else:
            _check(_joined, settings, target_port)


def _is_the_users() -> bool:
    given = os.environ.get(VARIABLE) or os.environ.get(INLINE_VARIABLE)
    return bool(given) and OWNER_VARIABLE not in os.environ


def _check(joined: Joined, settings: Settings, target_port: int) -> None:
    if joined.settings != settings:
        raise SettingsError(
            f"grpcio's xDS client of this process is {joined.settings.instance} already, and it cannot be "
            f"{settings.instance} as well: grpcio reads its bootstrap once. Use one mesh for engine xds in a process"
        )
    if target_port not in (0, joined.target_port):
        raise SettingsError(
            f"port {target_port} cannot be announced any more: grpcio reads its bootstrap once, and this process has made "
            f"channels or servers of engine xds before. Make this server first, or call "
            f"meshlib_grpc.native.prepare(serves={target_port}) before anything else"
        )


def _join(settings: Settings, target_port: int, timeout: float) -> Joined:
    _remove_what_killed_processes_left()
    home, lock = _private_folder()
    folder = CertificateFolder(home / "certificates")
    keeper = CertificateKeeper(settings, folder)
    try:
        keeper.obtain(timeout)
        content = bootstrap(settings, own_address(settings), folder, target_port)
        (home / "bootstrap.json").write_text(json.dumps(content, indent=2))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        os.close(lock)
        raise
    os.environ[VARIABLE] = str(home / "bootstrap.json")
    os.environ.pop(INLINE_VARIABLE, None)  # a parent's
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    joined = Joined(settings, target_port, keeper, lock)
    joined.start()
    return joined


def _private_folder() -> tuple[Path, int]:
    """A new folder with mode 0700, in memory where the system has such a place, and the lock that says it is in use."""
    home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_place()))
    # Under its name only once it is locked: whoever finds a lock that is free may remove the folder.
    draft = home / f"{_LOCK}.new"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    draft.rename(home / _LOCK)
    return home, lock


def _place() -> str:
    for candidate in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108  mkdtemp makes a private folder in it
        if candidate and os.path.isdir(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return tempfile.gettempdir()


def _remove_what_killed_processes_left() -> None:
    for home in Path(_place()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _if_unused(home / _LOCK):
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _if_unused(path: Path) -> Iterator[None]:
    """Goes on while holding the lock; raises OSError if another process holds it, or it is not ours."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
