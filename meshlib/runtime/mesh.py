"""One process's part in the mesh. Everything hangs on a `Mesh`; there is no other state.

Rule 1: making one costs nothing: no thread, no socket, no gRPC object before the first use, so that servers may fork.
Rule 2: after a fork the child starts anew: threads and streams do not survive one. Each worker has its own.
Rule 3: no request fails because the control plane is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from meshlib.config.snapshot import ABSENT, EMPTY, Absent, Destination, Snapshot, listener_name
from meshlib.errors import ControlPlaneError, MeshError
from meshlib.runtime.addresses import own_address, reachable
from meshlib.runtime.events import Announcement
from meshlib.runtime.own_port import UNSERVED, unregistered
from meshlib.runtime.settings import Settings

if TYPE_CHECKING:
    from meshlib.inbound.admit import InboundPort
    from meshlib.inbound.rate_limit import Counting
    from meshlib.outbound.balance import Balancers
    from meshlib.runtime.certificates import Certificates
    from meshlib.runtime.client_async import AsyncClient
    from meshlib.runtime.client_sync import SyncClient
    from meshlib.runtime.control import Control
    from meshlib.runtime.enrolment import Enrolment
    from meshlib.runtime.ext_authz import Authorizers
    from meshlib.runtime.rate_limit import RateLimitServices
    from meshlib.runtime.stats import StatsServer
    from meshlib.telemetry.records import Telemetry

RESOLVE_TIMEOUT = 2.5
"""Seconds; a little above the control thread's own patience, which answers first in an outage."""
STRICT_TIMEOUT = 10.0
"""Seconds that a strict start waits for a certificate."""

_log = logging.getLogger("meshlib")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What runs while the mesh is joined."""

    control: Control
    enrolment: Enrolment
    stats: StatsServer | None
    pid: int = field(default_factory=os.getpid)

    def start(self, prefetch: tuple[str, ...]) -> None:
        self.control.start()
        self.enrolment.start()
        if self.stats is not None:
            self.stats.start()
        for name in filter(None, map(listener_name, prefetch)):
            self.control.want(name)

    def stop(self) -> None:
        if self.pid != os.getpid():  # a forked child has the parent's finalizers, but not its threads
            return
        self.enrolment.stop()
        self.control.stop()
        if self.stats is not None:
            self.stats.close()


class Mesh:
    """A process's door into the mesh. Safe to use from several threads and event loops.

    Args:
        settings: default: from the environment. Raises SettingsError if that is wrong.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_env(os.environ)
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._parts: _Parts | None = None
        self._served: Announcement | None = None
        self._last_port: InboundPort = UNSERVED
        self._told_unserved = False
        self.withdrawn = False
        """A server of ours is about to end: it asks its clients to close their connections."""
        self._sync_client: SyncClient | None = None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        parts = self._parts
        state = parts.control.state.value if parts else "not started"
        return f"<Mesh {self.settings.service or 'client'}.{self.settings.namespace} {state}>"

    # Parts

    @cached_property
    def telemetry(self) -> Telemetry:
        """What this process tells about its requests."""
        from meshlib.telemetry.context import Propagation
        from meshlib.telemetry.records import Telemetry
        from meshlib.telemetry.workloads import local_workload

        settings = self.settings
        local = local_workload(
            service=settings.service,
            namespace=settings.namespace,
            workload=settings.workload,
            labels=settings.labels,
            domain=settings.domain,
        )
        propagation = Propagation(forward=settings.forward_headers, sampling=settings.trace_sampling / 100)
        return Telemetry(local, propagation, access_log=settings.access_log)

    @cached_property
    def certificates(self) -> Certificates:
        """Our identity and its TLS contexts."""
        from meshlib.runtime.certificates import Certificates

        return Certificates()

    @cached_property
    def balancers(self) -> Balancers:
        """Who gets the next request, and how busy everybody is; one set for all threads and loops."""
        from meshlib.outbound.balance import Balancers

        return Balancers()

    @cached_property
    def counting(self) -> Counting:
        """What the rate limits of our port count with. A forked child has its own: it starts with full buckets."""
        from meshlib.runtime.counting import counting

        return counting(self.settings)

    @cached_property
    def rate_limit_services(self) -> RateLimitServices:
        """Who is asked for limits that many processes share."""
        from meshlib.runtime.rate_limit import RateLimitServices

        return RateLimitServices(self)

    @cached_property
    def authorizers(self) -> Authorizers:
        """Who is asked whether requests may enter."""
        from meshlib.runtime.ext_authz import Authorizers

        return Authorizers(self)

    def client(self) -> SyncClient:
        """The client for threads; one per mesh."""
        from meshlib.runtime.client_sync import SyncClient

        with self._lock:
            if self._sync_client is None:
                self._sync_client = SyncClient(self)
            return self._sync_client

    def async_client(self) -> AsyncClient:
        """The client of the running event loop; one per loop."""
        from meshlib.runtime.client_async import AsyncClient

        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._async_clients.get(loop)
            if client is None:
                for closed in [other for other in self._async_clients if other.is_closed()]:
                    del self._async_clients[closed]
                client = self._async_clients[loop] = AsyncClient(self)
            return client

    # Life

    def start(self) -> None:
        """Begin to take part, in the background. Idempotent; called by first use anyway.

        Raises:
            ControlPlaneError: with `strict`, if there is no certificate within STRICT_TIMEOUT; nothing runs then.
        """
        if self._parts is not None or not self.settings.enabled:
            return
        self._started()
        if self.settings.strict and not self.certificates.wait(STRICT_TIMEOUT):
            problem = self._refusal()
            self.close()
            raise problem

    def _started(self) -> Control:
        with self._lock:
            if self._parts is None:
                self._parts = parts = self._make_parts()
                # Not `self.close`: a finalizer that holds the mesh would keep it alive. Runs at exit as well.
                weakref.finalize(self, parts.stop)
                parts.start(self.settings.prefetch)
            return self._parts.control

    def _make_parts(self) -> _Parts:
        from meshlib.runtime.control import Control
        from meshlib.runtime.counting import keep
        from meshlib.runtime.enrolment import Enrolment
        from meshlib.runtime.identity_source import credential
        from meshlib.runtime.xds import Stream

        settings, balancers, telemetry, certificates = self.settings, self.balancers, self.telemetry, self.certificates

        def identified(spiffe_id: str) -> None:
            telemetry.identify(spiffe_id)
            control.certified()

        enrolment = Enrolment(settings, certificates, identified)
        control = Control(
            settings,
            own_address(settings),
            partial(Stream, credential(settings, certificates, time.time, enrolment.replace), enrolment.trust),
            random.random,
            on_change=partial(keep, balancers, self.counting.buckets),
        )
        stats = None
        if settings.stats_address:
            from meshlib.runtime.stats import StatsServer

            stats = StatsServer(settings.stats_address, telemetry.metrics, settings.instance)
        return _Parts(control, enrolment, stats)

    def close(self) -> None:
        """Leave the mesh: the stream ends, and with it the registration. Idempotent; the next use starts anew."""
        with self._lock:
            parts, self._parts, self._served = self._parts, None, None
            if parts is not None:  # requests that are still under way must not find an open port
                self._last_port = parts.control.own_port.accepts
        if parts is not None:
            parts.stop()

    def serve(self, port: int, address: str = "", protocol: str = "") -> None:
        """Announce that a server of ours listens. A later call replaces an earlier one.

        The port's policy is asked for at once; others are told of it with our first certificate, not before.

        Args:
            port: where it listens; others are told this port, unless MESHLIB_TARGET_PORT says which one counts.
            address: where it listens; what cannot be reached from elsewhere (`0.0.0.0`) is replaced by our own address.
            protocol: what it speaks, where the adapter knows better than the settings: `grpc`.
        """
        if not self.settings.enabled or self.settings.target_port not in (0, port):
            return
        control = self._started()
        announcement = Announcement(self.settings.address or reachable(address, control.address), port, protocol=protocol)
        if announcement != self._served:
            self._served, self.withdrawn = announcement, False
            control.serve(announcement)

    def withdraw(self, port: int) -> Future[None]:
        """Take the registration back, before the server ends: clients move away while it still listens. Its policy stays.

        Never waits and takes no lock, so that a signal handler may call it.

        Args:
            port: as in `serve`; nothing happens if another port is announced.

        Returns:
            done when others had the time to hear of it (about half a second), at once if they never heard of the port.
        """
        parts, served = self._parts, self._served
        if parts is None or served is None or served.target_port != port:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        self._served, self.withdrawn = None, True
        return parts.control.withdraw()

    def ready(self, timeout: float) -> bool:
        """Wait until there is a certificate, and the control plane knows of our port if we serve one.

        Args:
            timeout: seconds. A mesh that is switched off is ready at once.
        """
        if not self.settings.enabled:
            return True
        until = time.monotonic() + timeout
        control = self._started()
        if not self.certificates.wait(timeout):
            return False
        return self._served is None or control.acknowledged.wait(max(0.0, until - time.monotonic()))

    @property
    def problem(self) -> MeshError | None:
        """Why the control plane is out of reach, or gives no certificate; None: nothing is known to be wrong."""
        parts = self._parts
        return (parts.enrolment.problem or parts.control.problem) if parts is not None else None

    # What is known

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force, whole."""
        parts = self._parts
        return parts.control.snapshot if parts is not None else EMPTY

    @property
    def inbound(self) -> InboundPort:
        """What our own port accepts now; `runtime.own_port` says what that is while nothing is known."""
        parts = self._parts
        port = parts.control.own_port.accepts if parts is not None else self._last_port
        return port if port is not UNSERVED else self._unserved()

    def _unserved(self) -> InboundPort:
        if not self.settings.enabled:
            return UNSERVED
        if not self._told_unserved:
            _log.warning("meshlib: no port is registered, no policy is enforced: set MESHLIB_TARGET_PORT")
        self._told_unserved = True
        return unregistered(strict=self.settings.strict)

    def destination(self, authority: str) -> Destination | Absent | None:
        """What is known about an authority, without waiting; None: nobody asked yet."""
        parts = self._parts
        return (parts.control.snapshot if parts is not None else EMPTY).destination(authority)

    def resolve(self, authority: str, timeout: float = RESOLVE_TIMEOUT) -> Destination | Absent:
        """Where requests to an authority go; asks the control plane the first time.

        Args:
            authority: as in the Host header.
            timeout: seconds to wait; afterwards the host counts as outside the mesh, with one warning per outage.

        Raises:
            ControlPlaneError: with `strict`, instead of taking a host for outside because nobody answers.
        """
        found = self.destination(authority)
        if found is not None:
            return found
        name, waiter = self._ask(authority)
        if waiter is None:
            return ABSENT
        try:
            found = waiter.result(timeout)
        except TimeoutError:
            found = self._give_up(name, waiter)
        return self._checked(authority, found)

    async def resolve_async(self, authority: str, timeout: float = RESOLVE_TIMEOUT) -> Destination | Absent:
        """As `resolve`, for the running event loop."""
        found = self.destination(authority)
        if found is not None:
            return found
        name, waiter = self._ask(authority)
        if waiter is None:
            return ABSENT
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.wrap_future(waiter)
        except TimeoutError:
            found = self._give_up(name, waiter)
        return self._checked(authority, found)

    def _ask(self, authority: str) -> tuple[str, Future[Destination | Absent] | None]:
        name = listener_name(authority)
        if name is None or not self.settings.enabled:
            return "", None
        return name, self._started().want(name)

    def _give_up(self, name: str, waiter: Future[Destination | Absent]) -> Absent:
        waiter.cancel()
        self._started().give_up(name)
        return ABSENT

    def _checked(self, authority: str, found: Destination | Absent) -> Destination | Absent:
        if self.settings.strict and self.destination(authority) is None:
            raise self._refusal()
        return found

    def _refusal(self) -> ControlPlaneError:
        known = self.problem
        kind = type(known) if isinstance(known, ControlPlaneError) else ControlPlaneError
        what = known or f"the control plane at {self.settings.control_plane} does not answer"
        return kind(f"{what} (MESHLIB_STRICT is set: nothing goes outside the mesh)")

    # Forks

    def _after_fork_in_child(self) -> None:
        # The parent's objects are kept, not freed: destroying gRPC's halves of threads that did not come along could hang.
        _left_behind.append((self._parts, self._sync_client))
        _left_behind.extend(self.__dict__.pop(name, None) for name in ("counting", "rate_limit_services", "authorizers"))
        certificates: Certificates | None = self.__dict__.get("certificates")  # not made here if nobody asked for it yet
        if certificates is not None:
            certificates.after_fork()
        self.__dict__.pop("balancers", None)  # what they count is under way in the parent
        self._begin()


_all: weakref.WeakSet[Mesh] = weakref.WeakSet()
_left_behind: list[object] = []


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.Lock()
    for mesh in list(_all):
        mesh._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)

_default: Mesh | None = None
_default_lock = threading.Lock()


def default() -> Mesh:
    """The process's mesh, with settings from the environment. Raises SettingsError if they are wrong."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Mesh()
        return _default
