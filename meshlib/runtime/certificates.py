"""Our identity on the wire: the TLS contexts that prove it, replaced while connections live.

Rule 1: a generation is one leaf with its key and one trust bundle. New handshakes use the newest; old connections finish.
Rule 2: servers hold one context for good; its SNI callback, which OpenSSL calls for clients without SNI too, swaps in the
newest generation's context. Loading into the live context would only ever add trust, never remove a CA.
Rule 3: clients get a new context per generation and close idle connections of older ones.
Rule 4: no session is resumed at our servers: a resumed handshake skips the check against the newest bundle. TLS 1.2 resumes by
session id from a cache that `ssl` cannot turn off, so servers speak TLS 1.3 only; Istio's sidecars, grpc and Python all do.
Rule 5: a private key is on no disk: it passes through a memory file where the system has them.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from meshlib.errors import IdentityError, NoCertificate
from meshlib.identity.leaf import Leaf, leaf_from_pem
from meshlib.identity.rotation import explain
from meshlib.runtime.tls import note_server_name

ALPN = ("istio-http/1.1", "istio", "http/1.1")
"""What Istio's sidecars offer each other; plain HTTP/1.1 last."""

ALPN_HTTP2 = ("h2", "istio-h2", "istio")
"""For gRPC. `h2` first: it is the one that grpcio's own TLS knows, and insists on."""

Alpn = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with all that is needed to use it.

    Args:
        chain: PEM: leaf first, then intermediates; the root is not sent.
        key: PEM.
        roots: PEM: whom to trust, the one that signs first.
        leaf: what the leaf says.
    """

    chain: str
    key: bytes = field(repr=False)
    roots: str
    leaf: Leaf


def identity_of(certificates: list[str], key: bytes, extra_roots: str = "") -> Identity:
    """An identity from a CA's answer.

    Args:
        certificates: PEM, leaf first, all roots in one text last, as Istio's CA answers.
        extra_roots: PEM of further roots to trust, while a root is being replaced.

    Raises:
        IdentityError: fewer than two certificates, or the leaf cannot be read.
    """
    if len(certificates) < 2:
        raise IdentityError(f"the CA answered with {len(certificates)} certificates; a leaf and a root are needed")
    lines = [pem if pem.endswith("\n") else pem + "\n" for pem in certificates]
    return Identity("".join(lines[:-1]), key, lines[-1] + extra_roots, leaf_from_pem(lines[0]))


@dataclass(frozen=True, slots=True)
class ClientTls:
    """A context for new client connections and the generation it belongs to."""

    context: ssl.SSLContext
    generation: int


@dataclass(frozen=True, slots=True)
class _Generation:
    number: int
    identity: Identity
    revoked: str
    servers: dict[Alpn, ssl.SSLContext]
    clients: dict[Alpn, ClientTls]

    def server(self, alpn: Alpn) -> ssl.SSLContext:
        """Made when first needed: hardly any process speaks more than one protocol."""
        found = self.servers.get(alpn)
        if found is None:
            found = self.servers.setdefault(alpn, _context(ssl.PROTOCOL_TLS_SERVER, self.identity, self.revoked, alpn))
        return found

    def client(self, alpn: Alpn) -> ClientTls:
        """As `server`."""
        found = self.clients.get(alpn)
        if found is None:
            made = ClientTls(_context(ssl.PROTOCOL_TLS_CLIENT, self.identity, self.revoked, alpn), self.number)
            found = self.clients.setdefault(alpn, made)
        return found


class Certificates:
    """The newest identity and its contexts. Readers take no lock.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._current: _Generation | None = None
        self._revoked = ""
        self._servers: dict[Alpn, ssl.SSLContext] = {}
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        current = self._current
        return f"<Certificates {current.identity.leaf.spiffe_id} #{current.number}>" if current else "<Certificates none>"

    def install(self, identity: Identity) -> int:
        """Make an identity the newest: new handshakes use it from now on. Returns its generation, from 1.

        Raises:
            IdentityError: OpenSSL does not accept it: the key belongs to another certificate, for example.
        """
        while True:
            current, revoked = self._current, self._revoked
            made = _made(current, identity, revoked)
            with self._changed:
                if self._current is current and self._revoked is revoked:  # else others came meanwhile
                    return self._begin(made)

    def trust(self, roots: str, revoked: str = "") -> bool:
        """Other roots are to be trusted from now on. Whether another one signs, so that our certificate is to be renewed.

        Args:
            roots: PEM, the one that signs first.
            revoked: PEM of lists of certificates that count no more; empty: nothing is checked.

        Raises:
            IdentityError: they are no certificates, or no lists.
        """
        while True:
            current = self._current
            if current is None:  # the first certificate brings its own roots
                _load_revoked(_bare(ssl.PROTOCOL_TLS_CLIENT, ALPN), revoked)
                with self._changed:
                    if self._current is None:
                        self._revoked = revoked
                        return False
                continue
            if (roots, revoked) == (current.identity.roots, current.revoked):
                return False
            made = _made(current, replace(current.identity, roots=roots), revoked)
            with self._changed:
                if self._current is current:  # else a renewed certificate came meanwhile
                    self._begin(made)
                    return _first(roots) != _first(current.identity.roots)

    def _begin(self, made: _Generation) -> int:
        self._current, self._revoked = made, made.revoked
        for context in self._servers.values():
            _look_up_revoked(context, made.revoked)
        self._changed.notify_all()
        return made.number

    def server_context(self, alpn: Alpn = ALPN) -> ssl.SSLContext:
        """The one context for listeners: hand it out once, it shows the newest generation at each handshake.

        It may be asked for before the first certificate is there; handshakes fail until then.

        Args:
            alpn: protocols to accept, best first.
        """
        found = self._servers.get(alpn)
        if found is None:
            found = self._servers.setdefault(alpn, self._stable_context(alpn))
        return found

    def _stable_context(self, alpn: Alpn) -> ssl.SSLContext:
        context = _bare(ssl.PROTOCOL_TLS_SERVER, alpn)
        _look_up_revoked(context, self._revoked)

        def swap(session: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
            note_server_name(session, name)
            current = self._current
            if current is None:
                return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
            session.context = current.server(alpn)
            return None

        context.sni_callback = swap
        return context

    def client_context(self, alpn: Alpn = ALPN) -> ClientTls:
        """The context for new connections to members of the mesh. The transport checks the peer's identity itself.

        Args:
            alpn: protocols to offer, best first.

        Raises:
            NoCertificate: there is none yet, or the newest is not valid now; the message says why.
        """
        current = self._current
        if current is None:
            raise NoCertificate("this process has no certificate yet: none has been issued to it")
        problem = self.problem()
        if problem:
            raise NoCertificate(f"the certificate of {current.identity.leaf.spiffe_id} cannot be used: {problem}")
        return current.client(alpn)

    def problem(self) -> str:
        """For people: why the newest certificate cannot be used now; empty if it can, or if there is none."""
        if self._current is None:
            return ""
        leaf = self._current.identity.leaf
        why = explain(self._wall(), leaf.not_before, leaf.not_after)
        return f"{why}. If this clock is right, no new one could be had in time" if why else ""

    def wait(self, timeout: float) -> bool:
        """Block until there is a certificate, at most `timeout` seconds; whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self._current is not None, timeout)

    def after_fork(self) -> None:
        """In a forked child: keep the identity, drop a lock that a thread of the parent may have held."""
        self._changed = threading.Condition()

    @property
    def generation(self) -> int:
        """The number of the newest generation; 0: none yet."""
        return self._current.number if self._current else 0

    @property
    def identity(self) -> Identity | None:
        """The newest identity; None: none yet."""
        return self._current.identity if self._current else None

    @property
    def spiffe_id(self) -> str:
        """Who we are; empty: nobody yet."""
        return self._current.identity.leaf.spiffe_id if self._current else ""

    @property
    def expires_at(self) -> float | None:
        """When the newest certificate ends, seconds since the epoch; None: there is none yet."""
        return self._current.identity.leaf.not_after if self._current else None


def _first(roots: str) -> str:
    """The first certificate of a PEM text, in one spelling."""
    return "".join(roots.partition("-----END")[0].split())


def _bare(protocol: int, alpn: Alpn) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # SPIFFE ids are URIs; the transport compares them (identity.peer.verify)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Istio's minimum; both sides prefer 1.3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
    return context


def _made(before: _Generation | None, identity: Identity, revoked: str) -> _Generation:
    """The generation after another one. Its contexts are made now: so it is known that they can be."""
    number = before.number + 1 if before else 1
    server, client = (_context(side, identity, revoked) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    return _Generation(number, identity, revoked, {ALPN: server}, {ALPN: ClientTls(client, number)})


def _look_up_revoked(context: ssl.SSLContext, revoked: str) -> None:
    """Every leaf is looked up in its issuer's list, or none is: OpenSSL refuses a leaf whose issuer gave no list.

    To be said to listeners' contexts as well: a handshake takes such flags from the context that it began with.
    """
    if revoked:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    else:
        context.verify_flags &= ~ssl.VERIFY_CRL_CHECK_LEAF


def _load_revoked(context: ssl.SSLContext, revoked: str) -> None:
    if revoked:
        try:
            with _readable(revoked.encode()) as path:  # OpenSSL reads lists from files only
                context.load_verify_locations(cafile=path)
        except ssl.SSLError as error:
            raise IdentityError(f"OpenSSL does not accept the revocation lists: {error}") from error
    _look_up_revoked(context, revoked)


def _context(protocol: int, identity: Identity, revoked: str, alpn: Alpn = ALPN) -> ssl.SSLContext:
    context = _bare(protocol, alpn)
    _load_revoked(context, revoked)
    try:
        context.load_verify_locations(cadata=identity.roots)
        with _readable(identity.key + identity.chain.encode()) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise IdentityError(f"OpenSSL does not accept the certificate of {identity.leaf.spiffe_id}: {error}") from error
    return context


@contextlib.contextmanager
def _readable(secret: bytes) -> Iterator[str]:
    """A path under which OpenSSL finds the bytes: a memory file, or where there are none a private file, removed at once."""
    if hasattr(os, "memfd_create"):
        descriptor, path = os.memfd_create("meshlib", os.MFD_CLOEXEC), ""
    else:
        descriptor, path = tempfile.mkstemp(prefix="meshlib-")  # mode 0600
    try:
        os.write(descriptor, secret)
        yield path or f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
        if path:
            os.unlink(path)
