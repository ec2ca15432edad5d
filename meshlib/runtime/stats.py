"""GET /stats/prometheus: one page for all processes of an instance.

A forking server has many workers and one stats address. Each worker tells its own counts on a Unix socket in a folder that
all workers of the instance share. Whoever holds the TCP port adds up what the others tell; when it ends, another takes the
port. What ended workers had counted is kept in the folder, so that sums do not fall: Prometheus takes a fall for a restart and
counts everything again. For a worker that was killed, what it told at the last scrape is kept; only if the port's owner itself
is killed, its counts are lost.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import selectors
import socket
import socketserver
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from meshlib.errors import SettingsError
from meshlib.telemetry.metrics import RequestMetrics, Snapshot, decode, encode, merge
from meshlib.telemetry.prometheus import CONTENT_TYPE, exposition

_log = logging.getLogger("meshlib.stats")

PATH = "/stats/prometheus"
_TAKE_OVER = 0.5  # seconds between tries for the port; a scrape interval is far longer
_PATIENCE = 2.0  # seconds for a scraper or a worker to go on
_FRESH = 60.0  # seconds that the counts of ended workers wait for the next worker of the same instance


class StatsServer:
    """Serves the counts of this process and of its fellow workers.

    Args:
        address: `127.0.0.1:15090`; port 0 takes a free one.
        metrics: what this process counts.
        instance: the same in all workers of one instance, different for every other program that shares this machine.
        folder: where instances keep their run folders; a private folder of the user in the temporary directory by default.

    Raises:
        SettingsError: the address cannot be read.
    """

    def __init__(self, address: str, metrics: RequestMetrics, instance: str, folder: Path | None = None) -> None:
        self._address = _parse(address)
        self._metrics = metrics
        self._crew = _Crew(folder, _short(f"{instance} {address}"), metrics)
        self._page: _Page | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self.port = 0  # what we listen on; 0 while a fellow worker holds the port

    def start(self) -> None:
        """Begin to serve; idempotent, and to be called anew in a forked child."""
        if self._thread:
            return
        self._wake = socket.socketpair()
        self._crew.join()
        self._try_port()
        self._thread = threading.Thread(target=self._serve, name="meshlib-stats", daemon=True)
        self._thread.start()
        _running.add(self)
        atexit.register(self.close)

    def close(self) -> None:
        """Leave our counts behind and hand over the port; idempotent."""
        thread, self._thread = self._thread, None
        if not thread or not self._wake:
            return
        _running.discard(self)
        atexit.unregister(self.close)
        self._crew.leave()
        self._wake[1].close()
        thread.join(_PATIENCE)

    def page(self) -> str:
        """The page as it is now, over all workers."""
        return exposition(merge([self._metrics.snapshot(), *self._crew.others()]))

    def _serve(self) -> None:
        assert self._wake
        wake = self._wake[0]
        with selectors.DefaultSelector() as selector:
            for listener in (wake, self._crew.teller, self._page):
                if listener:
                    selector.register(listener, selectors.EVENT_READ)
            ready: list[object] = []
            while wake not in ready:
                for server in ready:
                    assert isinstance(server, socketserver.BaseServer)
                    server.handle_request()
                if not self._page and (page := self._try_port()):
                    selector.register(page, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select(None if self._page else _TAKE_OVER)]
        self._let_go()

    def _try_port(self) -> _Page | None:
        with contextlib.suppress(OSError):  # taken: by a fellow worker as a rule, and it is asked for again soon
            self._page = _Page(self._address, self)
            self.port = self._page.server_address[1]
        return self._page

    def _let_go(self) -> None:
        for listener in (self._page, self._crew.teller):
            if listener:
                listener.server_close()
        if self._wake:
            self._wake[0].close()
        self._page = self._crew.teller = self._wake = None
        self.port = 0

    def forked(self) -> None:
        """Close our copies of the parent's sockets: a port must be free when its owner ends."""
        self._let_go()
        self._thread = None


_running: weakref.WeakSet[StatsServer] = weakref.WeakSet()


def _forked() -> None:
    for server in list(_running):
        server.forked()
    _running.clear()


os.register_at_fork(after_in_child=_forked)


class _Page(ThreadingHTTPServer):
    daemon_threads = True
    timeout = 0  # handle_request takes what is there and does not wait

    def __init__(self, address: tuple[str, int], stats: StatsServer) -> None:
        self.stats = stats
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Scrape)

    def server_bind(self) -> None:
        # HTTPServer would look up the host's name, which may wait for a name server.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a scrape from %s ended early", client_address, exc_info=True)


class _Scrape(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Page

    def do_GET(self) -> None:
        found = self.path.partition("?")[0] == PATH
        body = (self.server.stats.page() if found else f"look at {PATH}\n").encode("utf-8", "replace")
        self.send_response(200 if found else 404)
        self.send_header("content-type", CONTENT_TYPE if found else "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        _log.debug(format, *args)


class _Crew:
    """The workers of one instance, as a folder: a socket for each that lives, one file for all that ended."""

    def __init__(self, parent: Path | None, name: str, metrics: RequestMetrics) -> None:
        self._parent = parent
        self._name = name
        self._metrics = metrics
        self._told: dict[Path, Snapshot] = {}  # by fellow workers at the last scrape
        self.teller: socketserver.UnixStreamServer | None = None

    @cached_property
    def _folder(self) -> Path:
        return (self._parent or _private_folder()) / self._name

    @property
    def _ended(self) -> Path:
        return self._folder / "ended.json"

    def join(self) -> None:
        """Begin to tell. Without a folder (a full disk) this worker serves its own counts only."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._forget_former_run()
            self._own.unlink(missing_ok=True)
            self._told = {}
            self.teller = _Teller(str(self._own), self._metrics)
        except OSError as error:
            _log.warning("meshlib: %s has the counts of single workers only: %s", PATH, error)

    @property
    def _own(self) -> Path:
        return self._folder / f"{os.getpid()}.sock"

    def leave(self) -> None:
        """Under one lock for both, so that no reader sees our counts twice or not at all."""
        if not self.teller:
            return
        try:
            with self._locked():
                self._own.unlink(missing_ok=True)
                self._keep(self._metrics.snapshot())
        except OSError as error:
            _log.warning("meshlib: the counts of this worker are lost: %s", error)

    def _keep(self, counted: Snapshot) -> None:
        if counted:
            draft = self._ended.with_suffix(".new")
            draft.write_bytes(encode(merge([self._kept(), counted])))
            draft.replace(self._ended)

    def others(self) -> list[Snapshot]:
        """What fellow workers count and ended ones counted."""
        if not self.teller:
            return []
        with self._locked():
            answers = {path: self._ask(path) for path in self._fellows()}
            self._told = {path: snapshot for path, snapshot in answers.items() if snapshot}
            return [self._kept(), *self._told.values()]

    def _fellows(self) -> list[Path]:
        return [path for path in self._folder.glob("*.sock") if path.stem != str(os.getpid())]

    def _ask(self, path: Path) -> Snapshot | None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_PATIENCE)
                connection.connect(str(path))
                return decode(b"".join(iter(lambda: connection.recv(65536), b"")))
        except ConnectionRefusedError:  # it was killed and could not tidy up
            path.unlink(missing_ok=True)
            self._keep(self._told.get(path, {}))
        except (OSError, ValueError) as error:
            _log.warning("meshlib: worker %s is left out of %s: %s", path.stem, PATH, error)
        return None

    def _kept(self) -> Snapshot:
        try:
            return decode(self._ended.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def _forget_former_run(self) -> None:
        with self._locked():
            try:
                old = time.time() - self._ended.stat().st_mtime > _FRESH
            except FileNotFoundError:
                return
            if old and not any(self._ask(path) is not None for path in self._fellows()):
                self._ended.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:  # closing is not enough if another thread forked meanwhile: the child holds the same lock
                fcntl.flock(lock, fcntl.LOCK_UN)


class _Teller(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    timeout = 0

    def __init__(self, path: str, metrics: RequestMetrics) -> None:
        self.metrics = metrics
        super().__init__(path, _Tell)


class _Tell(socketserver.BaseRequestHandler):
    server: _Teller

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the asker has gone
            self.request.settimeout(_PATIENCE)
            self.request.sendall(encode(self.server.metrics.snapshot()))


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"MESHLIB_STATS_ADDRESS={address!r} is no address; write it as 127.0.0.1:15090")
    return host.strip("[]"), int(port)


def _short(name: str) -> str:
    # The path of a Unix socket has 107 characters at most.
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _private_folder() -> Path:
    """A folder that only this user can enter. Raises OSError if somebody else made one of that name."""
    folder = Path(tempfile.gettempdir()) / f"meshlib-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if seen.st_uid != os.getuid() or not stat.S_ISDIR(seen.st_mode) or stat.S_IMODE(seen.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user; remove it or set TMPDIR")
    return folder
