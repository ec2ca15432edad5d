"""A mesh without a control plane: hand-made configuration, certificates of the test, everything else real."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from meshlib.config.model import (
    Assignment,
    Cluster,
    Endpoint,
    Fault,
    MatchKind,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    StringMatch,
    UpstreamTls,
    VirtualHost,
    WeightedCluster,
)
from meshlib.config.snapshot import ABSENT, Absent, Destination, Snapshot
from meshlib.errors import NoCertificate
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.buckets import Buckets
from meshlib.inbound.rate_limit import Counting
from meshlib.outbound.balance import Balancers
from meshlib.runtime.client_async import AsyncClient
from meshlib.runtime.client_sync import SyncClient
from meshlib.runtime.settings import Settings
from meshlib.telemetry.context import Propagation
from meshlib.telemetry.events import RequestEvent, Workload
from meshlib.telemetry.records import Telemetry
from tests.support.pki import ALPN, Authority, Leaf, spiffe

ISTIO_RETRY = RetryPolicy(
    frozenset({"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}),
    retries=2,
    status_codes=frozenset({503}),
    backoff_base=0.001,
    backoff_max=0.002,
)
"""What Istio sets where nobody asks for retries, with short pauses."""

ANY_PATH = RouteMatch(StringMatch(MatchKind.PREFIX, "/"))


@dataclass(frozen=True)
class ClientTls:
    context: ssl.SSLContext
    generation: int


class Certificates:
    """Our certificate; `rotate` makes a newer one."""

    def __init__(self, authority: Authority | None, account: str) -> None:
        self._authority = authority
        self._account = account
        self._client: ClientTls | None = None
        self._server: ssl.SSLContext | None = None
        if authority is not None:
            self.rotate()

    @property
    def spiffe_id(self) -> str:
        return spiffe(self._account)

    def client_context(self, alpn: tuple[str, ...] = tuple(ALPN)) -> ClientTls:
        if self._client is None:
            raise NoCertificate("this mesh has no certificate")
        self._client.context.set_alpn_protocols(alpn)
        return self._client

    def server_context(self, alpn: tuple[str, ...] = tuple(ALPN)) -> ssl.SSLContext:
        if self._server is None:
            raise NoCertificate("this mesh has no certificate")
        self._server.set_alpn_protocols(alpn)
        return self._server

    def rotate(self) -> None:
        assert self._authority is not None
        leaf: Leaf = self._authority.issue(self._account)
        generation = self._client.generation + 1 if self._client else 1
        self._client = ClientTls(self._authority.client_context(leaf), generation)
        self._server = self._authority.server_context(leaf)


class LocalMesh:
    """What adapters see of a `Mesh`.

    Args:
        authority: signs our certificate; None: plain text only.
        account: our service account.
        keep_events: whether `events` collects what telemetry is told.
    """

    def __init__(self, authority: Authority | None = None, account: str = "productpage", *, keep_events: bool = True) -> None:
        self.certificates = Certificates(authority, account)
        self.telemetry = Telemetry(
            Workload(f"{account}-v1", "default", spiffe(account), account, "v1", service_name=account), Propagation()
        )
        self.balancers = Balancers()
        self.snapshot = Snapshot()
        self.inbound = InboundPort()
        self.counting = Counting(Buckets(time.monotonic, threading.Lock()), random.random)
        self.settings = Settings(service=account)
        self.events: list[RequestEvent] = []
        self.asked: list[str] = []
        self.served: list[tuple[int, str]] = []
        self.withdrawn: list[int] = []
        self.leaving: Future[None] = Future()
        self.leaving.set_result(None)
        self.unresolved: dict[str, Destination] = {}
        if keep_events:
            self.telemetry.add_listener(self.events.append)
        self._client: SyncClient | None = None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.client().close()

    def serve(self, port: int, address: str = "", protocol: str = "") -> None:
        self.served.append((port, address))

    def withdraw(self, port: int) -> Future[None]:
        self.withdrawn.append(port)
        return self.leaving

    def destination(self, authority: str) -> Destination | Absent | None:
        return self.snapshot.destination(authority)

    def resolve(self, authority: str, timeout: float = 5.0) -> Destination | Absent:
        self.asked.append(authority)
        found = self.unresolved.pop(authority, None)
        if found is None:
            return ABSENT
        self.know(found)
        return found

    async def resolve_async(self, authority: str, timeout: float = 5.0) -> Destination | Absent:
        await asyncio.sleep(0)
        return self.resolve(authority)

    def client(self) -> SyncClient:
        if self._client is None:
            self._client = SyncClient(self)
        return self._client

    def async_client(self) -> AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = AsyncClient(self)
        return client

    def know(self, *destinations: Destination) -> None:
        """Make these part of the configuration, at once."""
        known = {**self.snapshot.destinations, **{each.authority: each for each in destinations}}
        self.snapshot = replace(self.snapshot, destinations=known)


def destination(
    authority: str,
    endpoints: Mapping[str, Iterable[Endpoint]],
    *,
    weights: Mapping[str, int] | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | None = ISTIO_RETRY,
    fault: Fault | None = None,
    match: RouteMatch = ANY_PATH,
    sans: Iterable[str] = (),
    connect_timeout: float = 2.0,
) -> Destination:
    """A destination with one route to clusters that are named by their subset.

    Args:
        endpoints: by subset, as in `{"v1": [...], "v2": [...]}`.
        weights: by subset; all traffic to the first one if None.
        sans: SPIFFE ids that may answer; none: plain text.
    """
    host, port = authority.rsplit(":", 1)
    names = {subset: f"outbound|{port}|{subset}|{host}.default.svc.cluster.local" for subset in endpoints}
    allowed = frozenset(sans)
    tls = UpstreamTls(f"outbound_.{port}_._.{host}.default.svc.cluster.local", allowed, tuple(ALPN)) if allowed else None
    shares = weights or {next(iter(names)): 1}
    route = Route(
        "default",
        match,
        tuple(WeightedCluster(names[subset], weight) for subset, weight in shares.items()),
        timeout,
        retry,
        fault,
    )
    return Destination(
        authority,
        RouteConfiguration(f"outbound|{port}||{host}", (VirtualHost(authority, ("*",), (route,)),)),
        {name: Cluster(name, assignment=name, tls=tls, connect_timeout=connect_timeout) for name in names.values()},
        {names[subset]: Assignment(names[subset], tuple(given)) for subset, given in endpoints.items()},
    )


def endpoint(port: int, *, version: str = "v1", tls: bool = False, address: str = "127.0.0.1") -> Endpoint:
    """An instance of reviews on loopback."""
    labels = {"app": "reviews", "version": version}
    return Endpoint(address, port, tls=tls, workload=f"reviews-{version}", namespace="default", labels=labels)
