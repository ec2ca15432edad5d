"""A mesh in a folder: a server process takes mode and certificate from files and leaves events and ports in files.

What a control plane would send, a test writes; what the mesh would tell, a test reads. Certificates, telemetry and inbound
rules are the real ones.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from meshlib.config.model import PeerMode
from meshlib.config.policy import EscapedSlashes, Normalization
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.buckets import Buckets
from meshlib.inbound.rate_limit import Counting
from meshlib.runtime.certificates import Certificates, identity_of
from meshlib.runtime.settings import Settings
from meshlib.telemetry.events import RequestEvent
from meshlib.telemetry.records import Telemetry
from meshlib.telemetry.workloads import local_workload
from tests.support.rbac import rbac_filters

GOODBYE = 1.5
"""Seconds."""


class FolderMesh:
    """What the server adapters need of `meshlib.runtime.mesh.Mesh`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(service="reviews")
        self.telemetry = Telemetry(local_workload(service="reviews", namespace="default"))
        self.telemetry.add_listener(self._keep)
        self._certificates = Certificates()
        self._loaded = 0
        self._lock = threading.Lock()
        self.counting = Counting(Buckets(time.monotonic, threading.Lock()), random.random)
        self.withdrawn = False
        self._leaving = threading.Event()
        self._moved_away: Future[None] = Future()

    @property
    def inbound(self) -> InboundPort:
        policy = self.folder / "policy"
        filters = rbac_filters(*json.loads(policy.read_text())) if policy.exists() else ()
        mode = PeerMode((self.folder / "mode").read_text())
        return InboundPort(mode, filters=filters, normalization=self._normalization())

    def _normalization(self) -> Normalization:
        paths = self.folder / "paths"
        normalize, merge, escaped = json.loads(paths.read_text()) if paths.exists() else (True, False, EscapedSlashes.KEEP)
        return Normalization(normalize, merge, EscapedSlashes(escaped))

    @property
    def certificates(self) -> Certificates:
        """Always the newest in the folder, as if the control plane had answered just now."""
        newest = max((int(path.stem) for path in self.folder.glob("*.identity")), default=0)
        with self._lock:
            if newest > self._loaded:
                leaf, key, root = json.loads((self.folder / f"{newest}.identity").read_text())
                self._certificates.install(identity_of([leaf, root], key.encode()))
                self._loaded = newest
        return self._certificates

    def start(self) -> None:
        self._leave("started", "")

    def close(self) -> None:
        self._leave("closed", "")

    def serve(self, port: int, address: str = "") -> None:
        threading.Thread(target=self._say_goodbye, daemon=True).start()
        self._leave("served", f"{address}:{port}")

    def withdraw(self, port: int) -> Future[None]:
        """Clients take GOODBYE seconds to move away. May be called by a signal handler."""
        self.withdrawn = True
        self._leaving.set()
        self._leave("withdrawn", str(port))
        return self._moved_away

    def _say_goodbye(self) -> None:
        self._leaving.wait()
        time.sleep(GOODBYE)
        self._moved_away.set_result(None)

    def _keep(self, event: RequestEvent) -> None:
        kept = {
            "status": event.status,
            "flags": event.flags,
            "detail": event.detail,
            "method": event.method,
            "path": event.path,
            "peer": event.peer.spiffe_id,
            "secured": event.secured,
            "request_id": event.request_id,
            "sent": event.bytes_sent,
            "received": event.bytes_received,
            "duration": event.duration,
            "pid": os.getpid(),
        }
        with (self.folder / "events").open("a") as file:
            file.write(json.dumps(kept) + "\n")

    def _leave(self, what: str, text: str) -> None:
        place = self.folder / f"{os.getpid()}.{what}"
        place.with_suffix(".tmp").write_text(text)
        place.with_suffix(".tmp").rename(place)
