"""The control plane as one process: everything joined in one asyncio loop, started in order, stopped in reverse.

    store, files -> world -> xDS          registry <- xDS streams
    CA, tokens -> gRPC over TLS           API over HTTP on loopback

Rule 1: nothing is announced (`current.json`, `/ready`) before everything listens.
Rule 2: what cannot start says why and what to do, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio

from meshlib.facts import Peer

from .access.credentials import Credentials
from .api.app import create_app
from .api.bodies import AuthzBody, ExplainBody
from .authn import Authenticator
from .authorizing import check_access, peer_called, served_at
from .ca import CERTIFICATE_FILE
from .ca_plugged import PluggedAuthority
from .ca_roots import open_roots
from .ca_rotation import Replacing, Rotation
from .ca_service import Certificate, certificate_handler
from .configured import configuration_data, is_called
from .current import FILE as CURRENT_FILE
from .current import Current
from .desk import Desk
from .edges import edge_data, edges
from .errors import CannotStart
from .explaining import asking_node, explain_request, question
from .grpc_listener import RenewedCertificate, listen_for_certificates, listen_grpc, server_credentials
from .http_listener import ApiServer
from .inventory import Inventory, open_inventory
from .issued import IssuedCertificates
from .jwks import FILE as KEY_SETS_FILE
from .jwks import KeySets
from .listening import Address, listen, parse_address
from .members import kept, recall
from .mesh_config import mesh_config
from .model import Node, World
from .presentation import proxy_data
from .private_file import replace_file
from .registry import Registry
from .snapshots import Snapshot
from .tokens import ADMIN_FILE, TokenIssuer, open_admin_token, open_issuer
from .translate.envoy.secrets import ROOTS
from .translate.resources import SECRET
from .trust import KnownFiles, missing, roots_version
from .trust_bundle import Widened
from .trust_service import trust_handler
from .used_tokens import UsedTokens
from .xds.debounce import LONGEST, QUIET
from .xds.exchange import SyncState
from .xds.server import DiscoveryService

Say = Callable[[str], None]

GRACE = 0.1  # seconds for what is under way at the end; streams have had their time before (`members`)


@dataclass(frozen=True, slots=True)
class ControlPlaneOptions:
    """How a control plane is run.

    Args:
        home: gets `current.json`.
        data: keys, tokens, objects.
        config: a folder of YAML that is watched; None: no folder.
        xds_address, api_address: `HOST:PORT`; port 0 takes any free one.
        xds_mtls_address: where clients join that show a certificate instead of a token; empty: the port after the xDS port.
        server_names: further names for the server's certificate.
        trust_bundle: PEM file with further roots, see `trust_bundle`; None: only our own are trusted.
        cacerts: a folder with an authority that somebody else made, see `ca_plugged`; None: our own.
        quiet, longest: debounce of pushes, seconds.
    """

    home: Path
    data: Path
    config: Path | None = None
    xds_address: str = "127.0.0.1:15012"
    api_address: str = "127.0.0.1:15014"
    xds_mtls_address: str = ""
    server_names: tuple[str, ...] = ()
    trust_bundle: Path | None = None
    cacerts: Path | None = None
    trust_domain: str = "cluster.local"
    quiet: float = QUIET
    longest: float = LONGEST


def utc_now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


async def serve(options: ControlPlaneOptions, say: Say) -> None:
    """Run a control plane until SIGINT or SIGTERM.

    Raises:
        CannotStart: says why and what to do.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    plane = ControlPlane(options)
    await plane.start()
    try:
        say(_welcome(plane))
        await stop.wait()
    finally:
        await plane.stop()


class ControlPlane:
    """A control plane.

    Args:
        options: how it is run.
        clock: the time of day, UTC.

    `xds`, `xds_mtls` and `api` are the addresses it really listens on, known after `start`; `xds_mtls` may be None.
    """

    def __init__(self, options: ControlPlaneOptions, clock: Callable[[], datetime] = utc_now) -> None:
        self.options = options
        self.xds = parse_address(options.xds_address, "--xds-address")
        self.xds_mtls: Address | None = None
        self.api = parse_address(options.api_address, "--api-address")
        self._clock = clock
        self._closing = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Returns once everything listens and `current.json` says so.

        Raises:
            CannotStart: a port is taken, the data folder is unusable or in use.
        """
        async with contextlib.AsyncExitStack() as started:
            await self._start(started)
            self._closing = started.pop_all()

    async def stop(self) -> None:
        """Ends everything in reverse order. Clients keep their configuration and come back."""
        await self._closing.aclose()

    @property
    def current(self) -> Current:
        """Where everything is."""
        return Current(
            api=f"{'http' if self.api.loopback else 'https'}://{self.api}",
            token_file=str(self.options.data.absolute() / ADMIN_FILE),
            root_cert=str(self.options.data.absolute() / CERTIFICATE_FILE),
            xds=str(self.xds),
            xds_mtls=str(self.xds_mtls or ""),
        )

    async def _start(self, started: contextlib.AsyncExitStack) -> None:
        options = self.options
        started.enter_context(_exclusive(options.data))

        def untold() -> list[str]:
            return list(_untold(discovery, registry, roots.current.roots_pem, files))

        roots, rotation = _authorities(options, self._clock, untold)
        issuer = open_issuer(options.data)
        credentials = Credentials(open_admin_token(options.data), issuer, self._clock)
        authenticator = Authenticator(
            issuer,
            options.trust_domain,
            self._clock,
            lambda: roots.current.roots_pem,
            lambda: roots.current.revoked,
            lambda: mesh_config(inventory.objects()).trust_domain_aliases,
            UsedTokens(options.data),
        )
        inventory = started.enter_context(open_inventory(options.data, options.config))
        registry = Registry(trust_domain=options.trust_domain)

        def trust() -> None:
            registry.trust(roots.current.roots_pem.decode(), roots.current.revoked.decode())

        trust()
        roots.on_change(trust)
        issued, files = IssuedCertificates(), KnownFiles()
        certificate = RenewedCertificate(lambda: roots.current, self._names(), self._clock)

        def world() -> World:
            known = registry.world(inventory.objects())
            return replace(known, key_sets=key_sets.known, key_problems=key_sets.problems)

        def changed() -> None:
            key_sets.follow(inventory.objects().values())
            discovery.changed()

        discovery = DiscoveryService(
            registry,
            world,
            authenticator.grpc_caller,
            time.time,
            issued.expires,
            options.quiet,
            options.longest,
        )
        key_sets = KeySets(discovery.changed, options.data / KEY_SETS_FILE, lambda: self._clock().timestamp())
        desk = self._desk(inventory, registry, discovery, world, changed, issuer, rotation)
        # Both ports are bound before either is served: a taken one leaves nothing behind.
        listener = started.enter_context(contextlib.closing(listen(self.api, "--api-address")))

        def granted(given: Certificate) -> None:
            roots.granted(given.ends - given.issued)
            issued.note(given.spiffe_id, given.instance, given.ends, given.issued)
            files.note(given.spiffe_id, given.instance, roots_version(given.chain[-1].encode()))

        handlers = [
            discovery.handler(),
            certificate_handler(lambda: roots.current, authenticator, self._clock, granted),
            trust_handler(lambda: roots.current.roots_pem, authenticator, files),
        ]
        server = self._listen(handlers, certificate, roots)
        self.api = Address(self.api.host, listener.getsockname()[1])

        grace = recall(registry, options.data, lambda: self._clock().timestamp())
        discovery.start()
        started.callback(discovery.stop)
        await started.enter_async_context(inventory.watching(changed))
        await started.enter_async_context(key_sets.following(inventory.objects().values()))
        await server.start()
        started.push_async_callback(server.stop, GRACE)
        await started.enter_async_context(kept(registry, options.data, grace))
        await started.enter_async_context(rotation.running())
        await started.enter_async_context(roots.watching())
        api = ApiServer(
            create_app(desk, credentials, loopback=self.api.loopback), listener, None if self.api.loopback else certificate
        )
        await api.start()
        started.push_async_callback(api.stop)
        started.enter_context(_announced(options.home, self.current))

    def _desk(
        self,
        inventory: Inventory,
        registry: Registry,
        discovery: DiscoveryService,
        world: Callable[[], World],
        changed: Callable[[], None],
        issuer: TokenIssuer,
        rotation: Replacing,
    ) -> Desk:
        return Desk(
            inventory=inventory,
            world=world,
            changed=changed,
            issuer=issuer,
            proxies=lambda: [proxy_data(row, self._clock().timestamp()) for row in discovery.status()],
            explain=lambda body: _explain(world(), registry.nodes, body, self._clock()),
            authorize=lambda body: _authorize(world(), registry.nodes, body, self._clock()),
            configurations=lambda name, kinds: _configurations(discovery, name, kinds),
            edges=lambda: [edge_data(edge) for edge in edges(discovery.configurations(lambda _: True))],
            rotation=rotation,
            clock=self._clock,
        )

    def _listen(self, handlers: Sequence[Any], certificate: RenewedCertificate, roots: Widened) -> grpc.aio.Server:
        """The server behind both xDS ports, bound and not serving yet."""
        wanted = self.xds.port
        server, self.xds = listen_grpc(self.xds, server_credentials(certificate), handlers)
        certified = server_credentials(certificate, lambda: roots.current.roots_pem)
        self.xds_mtls = listen_for_certificates(server, self.options.xds_mtls_address, self.xds, wanted, certified)
        return server

    def _names(self) -> list[str]:
        certified = self.options.xds_mtls_address.rpartition(":")[0].strip("[]")
        hosts = [self.xds.host, self.api.host, certified, socket.gethostname(), *self.options.server_names]
        return [host for host in hosts if host not in ("0.0.0.0", "::", "")]  # noqa: S104  not listened on here


def _authorities(
    options: ControlPlaneOptions, clock: Callable[[], datetime], untold: Callable[[], list[str]]
) -> tuple[Widened, Replacing]:
    """What is trusted and signs, and what replaces it."""
    if options.cacerts is not None:
        plugged = PluggedAuthority(options.cacerts, options.data, clock, untold)
        return Widened(plugged, options.trust_bundle), plugged
    own = open_roots(options.data, clock(), options.trust_domain)
    return Widened(own, options.trust_bundle), Rotation(own, untold, clock)


def _explain(world: World, nodes: Sequence[Node], body: ExplainBody, now: datetime) -> dict[str, Any]:
    node, connected = asking_node(nodes, body.caller, body.namespace, world.trust_domain)
    request = question(body.method, body.url, body.headers)
    # A world of this moment: what is published may be older by the debounce, and who asks has just applied something.
    answer = explain_request(Snapshot(world).view(node), request)
    caller = {"service": body.caller, "namespace": node.namespace, "instance": node.instance, "connected": connected}
    told = {"method": request.method, "url": body.url, "headers": body.headers}
    peer = Peer(node.spiffe_id, f"{node.address}:0")
    known = bool(body.caller) and answer["inMesh"]
    access = check_access(world, nodes, request, peer, node.namespace, now.timestamp()) if known else []
    return {"request": told, "caller": caller, **answer, "access": access}


def _untold(discovery: DiscoveryService, registry: Registry, roots: bytes, files: KnownFiles) -> Iterator[str]:
    """Who does not have these roots yet."""
    states = discovery.states(SECRET, ROOTS)
    if discovery.snapshots.current.world.roots != roots.decode():
        states = [(node, state and SyncState.STALE) for node, state in states]  # published in a moment
    return missing(states, registry.members, files, roots_version(roots))


def _authorize(world: World, nodes: Sequence[Node], body: AuthzBody, now: datetime) -> dict[str, Any]:
    peer = peer_called(body.caller, body.namespace, world.trust_domain, body.address)
    request = question(body.method, body.url, body.headers)
    answers = check_access(world, nodes, request, peer, body.namespace, now.timestamp())
    told = {"method": request.method, "url": body.url, "headers": body.headers}
    near = [] if answers else served_at(nodes, request.authority)
    return {"request": told, "peer": peer.spiffe_id, "answers": answers, "servedAt": near}


def _configurations(discovery: DiscoveryService, name: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
    found = discovery.configurations(lambda node: is_called(node, name))
    return [configuration_data(one, kinds, changing=discovery.changing) for one in found]


@contextlib.contextmanager
def _exclusive(data: Path) -> Iterator[None]:
    """The data folder, for one control plane at a time: two would overwrite each other's objects."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data / "lock").open("a+")
    except OSError as error:
        raise CannotStart(f"cannot use the data folder {data}: {error.strerror}", "choose another one: --data DIR") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip()
            raise CannotStart(
                f"another control plane{f' (pid {holder})' if holder else ''} uses the data folder {data}",
                "stop it, or choose another folder: --data DIR",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _announced(home: Path, current: Current) -> Iterator[None]:
    """`current.json` while the control plane runs; one that another control plane wrote meanwhile is left alone."""
    path, content = home / CURRENT_FILE, current.to_json()
    replace_file(path, content)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                path.unlink()


def _welcome(plane: ControlPlane) -> str:
    current = plane.current
    return (
        f"The control plane is running.\n  services join at  {current.xds} (TLS, root certificate {current.root_cert})\n"
        f"  commands ask at   {current.api}\n"
        "Join a program:\n"
        "  meshlib token create --service-account NAME > NAME.token\n"
        "  meshlib run --service NAME --port PORT --token-file NAME.token -- COMMAND\n"
        "Ctrl-C stops it."
    )
