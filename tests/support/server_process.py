"""Start a server of the contract as a process, steer its mesh, read what it told, call it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshlib.config.policy import Normalization
from tests.support.pki import Authority

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds; a shared machine is slow at times


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


def until(found: Callable[[], Any], what: str) -> Any:
    """Wait for something true, at most DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {DEADLINE:g} s")


class ServerProcess:
    """A server, its folder mesh and callers of it."""

    def __init__(self, folder: Path, command: list[str], *, environ: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.folder = folder
        self.authority = Authority()
        self._generation = 0
        self.mode("PERMISSIVE")
        self.renew()
        self.context = self.authority.client_context(self.authority.issue("productpage"))
        environment = os.environ | {"MESH_FOLDER": str(folder), "PYTHONPATH": str(ROOT), **(environ or {})}
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=self.log, stderr=self.log)
        self._port = 0

    def mode(self, mode: str) -> None:
        """What PeerAuthentication says about the port."""
        self._say("mode", mode)

    def policy(self, *filters: Any) -> None:
        """RBAC filters of the port, as protobuf's JSON."""
        self._say("policy", json.dumps(filters))

    def paths(self, how: Normalization) -> None:
        """How paths are normalized from now on."""
        self._say("paths", json.dumps([how.normalize, how.merge_slashes, how.escaped_slashes.value]))

    def _say(self, what: str, text: str) -> None:
        place = self.folder / what
        place.with_suffix(".tmp").write_text(text)
        place.with_suffix(".tmp").rename(place)

    def renew(self) -> None:
        """A new certificate of the server."""
        leaf = self.authority.issue("reviews")
        self._generation += 1
        place = self.folder / f"{self._generation}.identity"
        place.with_suffix(".tmp").write_text(
            json.dumps([leaf.chain.decode(), leaf.key.decode(), self.authority.root.decode()])
        )
        place.with_suffix(".tmp").rename(place)

    @property
    def port(self) -> int:
        """The port that the server's adapter told the mesh."""
        if not self._port:
            served = until(lambda: self.left("served") or self.process.poll() is not None, "announced port")
            assert served is not True, (self.folder / "log").read_text()
            self._port = int(served[0].read_text().rpartition(":")[2])
        return self._port

    def left(self, what: str) -> list[Path]:
        """Notes that processes of the server left: `started`, `served`, `closed`."""
        return list(self.folder.glob(f"*.{what}"))

    def events(self, **wanted: object) -> list[dict[str, Any]]:
        """Events told so far that have these values."""
        place = self.folder / "events"
        lines = place.read_text().splitlines() if place.exists() else []
        told = [json.loads(line) for line in lines]
        return [event for event in told if all(event[key] == value for key, value in wanted.items())]

    def event(self, **wanted: object) -> dict[str, Any]:
        """The event with these values, waited for."""
        found = until(lambda: self.events(**wanted), f"event {wanted}")
        return dict(found[-1])

    @contextmanager
    def connect(self, *, tls: bool, context: ssl.SSLContext | None = None) -> Iterator[http.client.HTTPConnection]:
        """A connection, over mutual TLS or not."""
        if tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=DEADLINE, context=context or self.context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            yield connection
        finally:
            connection.close()

    def ask(
        self,
        path: str,
        *,
        tls: bool = True,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        with self.connect(tls=tls) as connection:
            return ask_on(connection, path, method=method, body=body, headers=headers)

    def raw(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def stop(self) -> int:
        """Ask the server to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()


def ask_on(
    connection: http.client.HTTPConnection,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection that may live on."""
    connection.request(method, path, body=body, headers=headers or {})
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


_GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "5", "--log-level", "warning"]
_WORKER = "tests.support.server_workers"
COMMANDS: dict[str, list[str]] = {
    "uvicorn-asyncio": [sys.executable, "-m", "tests.support.server_main", "uvicorn-asyncio"],
    "uvicorn-uvloop": [sys.executable, "-m", "tests.support.server_main", "uvicorn-uvloop"],
    "gunicorn-sync": [*_GUNICORN, "-k", f"{_WORKER}.SyncWorker", "tests.support.server_apps:wsgi"],
    "gunicorn-gthread": [*_GUNICORN, "-k", f"{_WORKER}.ThreadWorker", "--threads", "4", "tests.support.server_apps:wsgi"],
    "gunicorn-uvicorn": [*_GUNICORN, "-k", f"{_WORKER}.AsgiWorker", "tests.support.server_apps:asgi"],
    "werkzeug": [sys.executable, "-m", "tests.support.server_main", "werkzeug"],
}
KEEPS_ALIVE = {"uvicorn-asyncio", "uvicorn-uvloop", "gunicorn-gthread", "gunicorn-uvicorn"}
ASGI = {"uvicorn-asyncio", "uvicorn-uvloop", "gunicorn-uvicorn"}
