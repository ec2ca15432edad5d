"""A SPIFFE agent in the test: an authority of its own behind our Workload API. It plays SPIRE."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meshlib.identity.csr import new_request
from meshlib.runtime.certificates import Identity, identity_of
from meshlib.runtime.workload_api_server import WorkloadApiServer
from meshlib_control.ca import CertificateAuthority, open_authority
from tests.support.pki import spiffe


class Agent:
    """Gives one identity to everybody who asks at `socket`.

    Args:
        folder: gets the authority's data and the socket.
        spiffe_id: whom it makes of everybody.
        authority: signs; default: one of its own.
    """

    def __init__(
        self, folder: Path, spiffe_id: str = spiffe("reviews"), authority: CertificateAuthority | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.socket = folder / "agent.sock"
        self.spiffe_id = spiffe_id
        self.authority = authority or foreign_authority(folder)
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def live() -> None:
            end = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), end))
            await end.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(live()), name="agent", daemon=True)
        self._thread.start()
        self._loop, self._end = started.result(20)
        self._server: WorkloadApiServer | None = None
        self._serving: Any = None

    @property
    def endpoint(self) -> str:
        """For SPIFFE_ENDPOINT_SOCKET."""
        return f"unix://{self.socket}"

    def start(self, lifetime: float = 3600, group: str = "") -> Identity:
        """Begin to serve, with a fresh certificate. Returns that."""

        async def begin() -> Any:
            self._server = WorkloadApiServer()
            serving = self._server.serving(self.socket, group)
            await serving.__aenter__()
            return serving

        self._serving = self._done(begin())
        return self.rotate(lifetime)

    def rotate(self, lifetime: float = 3600, now: datetime | None = None) -> Identity:
        """Push another certificate with another key. Returns it.

        Args:
            lifetime: seconds. now: when it begins; default: now.
        """
        identity = issued(self.authority, self.spiffe_id, lifetime, now)
        self.publish(identity)
        return identity

    def publish(self, identity: Identity) -> None:
        """Push a certificate."""
        assert self._server is not None
        self._loop.call_soon_threadsafe(self._server.publish, identity)

    def stop(self) -> None:
        """End serving: streams break, the socket is gone."""
        if self._serving is not None:
            serving, self._serving = self._serving, None
            self._done(serving.__aexit__(None, None, None))

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)

    def _done(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@contextmanager
def agent(folder: Path, spiffe_id: str = spiffe("reviews")) -> Iterator[Agent]:
    """A running agent."""
    running = Agent(folder, spiffe_id)
    try:
        running.start()
        yield running
    finally:
        running.close()


def foreign_authority(folder: Path) -> CertificateAuthority:
    """An authority that has nothing to do with the mesh."""
    return open_authority(folder / "authority", datetime.now(UTC), "spire")


def issued(authority: CertificateAuthority, spiffe_id: str, lifetime: float = 3600, now: datetime | None = None) -> Identity:
    """A new key with a certificate for it."""
    request = new_request()
    moment = now or datetime.fromtimestamp(time.time(), UTC)
    return identity_of(authority.issue(request.pem, spiffe_id, timedelta(seconds=lifetime), moment), request.key_pem)
