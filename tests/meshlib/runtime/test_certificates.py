import contextlib
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshlib.errors import IdentityError, NoCertificate
from meshlib.identity.peer import peer_from_der
from meshlib.runtime.certificates import ALPN, ALPN_HTTP2, Certificates, Identity, identity_of
from meshlib.runtime.tls import TlsLayer
from tests.support.destinations import Clock
from tests.support.pki import Authority, Leaf, spiffe

REFUSED = r"(?i)alert|reset|closed|eof|broken pipe"
"""How a client learns of it: the alert, or the end of the connection that overtook it."""


def identity(leaf_of: Authority, *trusting: Authority, account: str = "reviews") -> Identity:
    leaf = leaf_of.issue(account)
    roots = [authority.root.decode() for authority in trusting or (leaf_of,)]
    return identity_of([leaf.chain.decode(), roots[0]], leaf.key, "".join(roots[1:]))


def member(leaf_of: Authority, *trusting: Authority, account: str = "client") -> Certificates:
    certificates = Certificates()
    certificates.install(identity(leaf_of, *trusting, account=account))
    return certificates


@pytest.fixture(scope="module")
def old() -> Authority:
    return Authority("old root")


@pytest.fixture(scope="module")
def new() -> Authority:
    return Authority("new root")


class Server:
    """A TLS echo server on a real port that was given its context once, before anything else."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.refusals: list[str] = []
        self._threads = ThreadPoolExecutor(4)
        self._threads.submit(self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._threads.submit(self._serve, self._listener.accept()[0])

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(10)
        try:
            with self._context.wrap_socket(plain, server_side=True) as secured:
                while data := secured.recv(100):
                    secured.sendall(data.upper())
        except OSError as error:
            self.refusals.append(str(error))
            plain.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads.shutdown()


@pytest.fixture
def serving() -> Iterator[tuple[Certificates, Server]]:
    certificates = Certificates()
    server = Server(certificates.server_context())
    yield certificates, server
    server.close()


@contextlib.contextmanager
def connected(server: Server, context: ssl.SSLContext, name: str | None = None) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(server.address, timeout=10)
    with plain, context.wrap_socket(plain, server_hostname=name) as secured:
        yield secured


def echo(secured: ssl.SSLSocket) -> bytes:
    """A whole round trip: a TLS 1.3 client hears of its refusal only with the first bytes."""
    secured.sendall(b"hello")
    answer = secured.recv(100)
    if not answer:
        raise ConnectionResetError("closed by the server")
    return answer


def shown(server: Server, client: Certificates, name: str | None = None) -> str:
    """Who the server says it is to this client."""
    with connected(server, client.client_context().context, name) as secured:
        assert echo(secured) == b"HELLO"
        return peer_from_der(secured.getpeercert(binary_form=True) or b"").spiffe_id


def visit(server: Server, context: ssl.SSLContext) -> bytes:
    with connected(server, context) as secured:
        return echo(secured)


def test_both_sides_prove_themselves(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """Mutual TLS 1.3 with Istio's ALPN, with SNI and without."""
    certificates, server = serving
    certificates.install(identity(old))
    client = member(old)
    assert shown(server, client) == shown(server, client, "outbound_.9080_._.reviews") == spiffe("reviews")
    with connected(server, client.client_context().context) as secured:
        assert (secured.version(), secured.selected_alpn_protocol()) == ("TLSv1.3", ALPN[0])


def test_protocols_for_http2(old: Authority) -> None:
    """A server of gRPC chooses `h2`, also after a new certificate; contexts for HTTP/1.1 are others."""
    certificates, client = Certificates(), member(old)
    listening = certificates.server_context(ALPN_HTTP2)
    assert listening is certificates.server_context(ALPN_HTTP2)
    assert listening is not certificates.server_context()
    for _ in range(2):
        certificates.install(identity(old))
        ours = TlsLayer(client.client_context(ALPN_HTTP2).context, server_side=False)
        theirs = TlsLayer(listening, server_side=True)
        said = ours.start()
        while not (ours.established and theirs.established):
            theirs.receive(said)
            ours.receive(theirs.pending())
            said = ours.pending()
        assert ours.alpn == theirs.alpn == "h2"
    assert client.client_context(ALPN_HTTP2) is client.client_context(ALPN_HTTP2)
    assert client.client_context(ALPN_HTTP2).generation == client.client_context().generation


@pytest.mark.parametrize("name", [None, "outbound_.9080_._.reviews"])
def test_a_new_leaf_is_shown_at_once(old: Authority, serving: tuple[Certificates, Server], name: str | None) -> None:
    """The listener keeps its context; the next handshake shows the new leaf, the old connection lives on."""
    certificates, server = serving
    client = member(old)
    certificates.install(identity(old, account="before"))
    with connected(server, client.client_context().context, name) as living:
        assert certificates.install(identity(old, account="after")) == 2
        assert shown(server, client, name) == spiffe("after")
        assert echo(living) == b"HELLO"


def test_a_removed_authority_is_refused(old: Authority, new: Authority, serving: tuple[Certificates, Server]) -> None:
    """Roots change while serving: both during the change, then the old one no more; the new one all the time."""
    certificates, server = serving
    former, latter = member(old, old, new), member(new, old, new)
    certificates.install(identity(old, old))
    assert shown(server, former) == spiffe("reviews")
    with pytest.raises(OSError, match=REFUSED):
        shown(server, latter)
    certificates.install(identity(new, old, new))
    assert shown(server, former) == shown(server, latter) == spiffe("reviews")
    certificates.install(identity(new, new))
    assert shown(server, latter) == spiffe("reviews")
    with pytest.raises(OSError, match=REFUSED):
        shown(server, former)


def test_no_session_outlives_its_authority(old: Authority, new: Authority, serving: tuple[Certificates, Server]) -> None:
    """A client that kept a session cannot resume it: each handshake is checked against the newest roots."""
    certificates, server = serving
    certificates.install(identity(old, old))
    context = member(old, old, new).client_context().context
    with connected(server, context) as secured:
        assert echo(secured) == b"HELLO"
        assert secured.session is None or not secured.session.has_ticket
    with socket.create_connection(server.address, timeout=10) as plain:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=REFUSED):
            context.wrap_socket(plain)


def named(authority: Authority, leaf: Leaf) -> Identity:
    return identity_of([leaf.chain.decode(), authority.root.decode()], leaf.key)


def test_a_revoked_client_is_refused(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """From the next handshake on, also by a listener that stood before the list came; others are served. And back again."""
    certificates, server = serving
    certificates.install(identity(old))
    revoked, other = old.issue("revoked"), old.issue("other")
    members = [Certificates(), Certificates()]
    for each, leaf in zip(members, (revoked, other), strict=True):
        each.install(named(old, leaf))
    roots = old.root.decode()
    certificates.trust(roots, old.revocations(revoked))
    with pytest.raises(OSError, match=REFUSED):
        shown(server, members[0])
    assert shown(server, members[1]) == spiffe("reviews")
    assert any("revoked" in reason for reason in server.refusals)
    certificates.trust(roots)
    assert shown(server, members[0]) == spiffe("reviews")


def test_a_revoked_server_is_not_believed(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """Our clients look it up as well."""
    certificates, server = serving
    revoked = old.issue()
    certificates.install(named(old, revoked))
    client = member(old)
    client.trust(old.root.decode(), old.revocations(revoked))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shown(server, client)


def test_a_list_that_comes_before_the_first_certificate_counts(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """And it outlives renewals."""
    certificates, server = serving
    revoked, client = old.issue("revoked"), Certificates()
    client.install(named(old, revoked))
    certificates.trust(old.root.decode(), old.revocations(revoked))
    for _ in range(2):
        certificates.install(identity(old))
        with pytest.raises(OSError, match=REFUSED):
            shown(server, client)


def test_without_the_issuers_list_nobody_is_believed(
    old: Authority, new: Authority, serving: tuple[Certificates, Server]
) -> None:
    """OpenSSL's and Envoy's rule: a list that is missing, or over, could hold anybody."""
    certificates, server = serving
    certificates.install(identity(old))
    for lists in (new.revocations(), old.revocations(hours=-1)):
        certificates.trust(old.root.decode() + new.root.decode(), lists)
        with pytest.raises(OSError, match=REFUSED):
            shown(server, member(old))
    certificates.trust(old.root.decode() + new.root.decode(), new.revocations() + old.revocations())
    assert shown(server, member(old)) == spiffe("reviews")


@pytest.mark.parametrize("joined", [True, False])
def test_what_is_no_list_is_refused(old: Authority, joined: bool) -> None:
    """And does not come back with the next certificate."""
    certificates = member(old) if joined else Certificates()
    with pytest.raises(IdentityError, match="does not accept the revocation lists"):
        certificates.trust(old.root.decode(), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    assert certificates.generation == joined
    certificates.install(identity(old))
    assert certificates.generation == joined + 1


def test_a_client_without_certificate_is_refused(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """The server asks for a certificate and takes no for an answer only as an error."""
    certificates, server = serving
    certificates.install(identity(old))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=old.root.decode())
    with pytest.raises(OSError, match=REFUSED):
        visit(server, context)


def test_before_the_first_certificate_handshakes_fail(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """A listener may stand before the CA answered: clients are refused, and served once there is a certificate."""
    certificates, server = serving
    client = member(old)
    with pytest.raises(OSError, match=REFUSED):
        shown(server, client)
    certificates.install(identity(old))
    assert shown(server, client) == spiffe("reviews")


def test_an_impostor_is_not_believed(old: Authority, new: Authority, serving: tuple[Certificates, Server]) -> None:
    """Our clients do not talk to a server of another authority."""
    certificates, server = serving
    certificates.install(identity(new))
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(server, member(old))


def test_clients_see_generations(old: Authority) -> None:
    """Each installation is a generation with a context of its own; the server's context stays the same."""
    certificates = Certificates()
    assert (certificates.generation, certificates.spiffe_id, certificates.expires_at) == (0, "", None)
    server = certificates.server_context()
    numbers = []
    for _ in range(2):
        certificates.install(identity(old))
        numbers.append(certificates.client_context())
    assert [one.generation for one in numbers] == [1, 2]
    assert numbers[0].context is not numbers[1].context
    assert certificates.server_context() is server
    assert repr(certificates) == f"<Certificates {spiffe('reviews')} #2>"


def test_without_certificate_clients_are_told() -> None:
    """No certificate yet: NoCertificate, and `wait` gives up when told to."""
    certificates = Certificates()
    assert not certificates.wait(0.0)
    with pytest.raises(NoCertificate, match="none has been issued"):
        certificates.client_context()


@pytest.mark.parametrize(("hours", "words"), [(2, "it has expired"), (-1, "it is not yet valid")])
def test_an_invalid_certificate_is_not_used(old: Authority, hours: int, words: str) -> None:
    """Expired, or the clock an hour behind: the message holds the certificate's time and the clock's."""
    mine = identity(old)
    clock = Clock(mine.leaf.not_before + 600)
    certificates = Certificates(clock)
    certificates.install(mine)
    assert certificates.client_context().generation == 1
    clock.sleep(hours * 3600)
    with pytest.raises(NoCertificate, match=f"{words}.*UTC.*UTC.*no new one could be had"):
        certificates.client_context()


def test_waiting_ends_when_a_certificate_comes(old: Authority) -> None:
    """A thread that waits is woken by the installation; after a fork the lock is new and the identity stays."""
    certificates = Certificates()
    certificates.after_fork()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(certificates.wait, 10)
        certificates.install(identity(old))
        assert waiting.result()
    certificates.after_fork()
    assert certificates.wait(0.0)


def test_a_key_of_another_certificate_is_refused(old: Authority) -> None:
    """What OpenSSL does not accept is an IdentityError, and the generation before stays in use."""
    certificates = member(old)
    wrong = identity_of([old.issue().chain.decode(), old.root.decode()], old.issue().key)
    with pytest.raises(IdentityError, match="does not accept"):
        certificates.install(wrong)
    assert certificates.generation == 1


def test_an_answer_without_root_is_refused(old: Authority) -> None:
    """A CA must answer with a leaf and a root."""
    leaf = old.issue()
    with pytest.raises(IdentityError, match="a leaf and a root"):
        identity_of([leaf.chain.decode()], leaf.key)


def test_no_key_stays_behind(old: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    """Neither with memory files nor without are a file or a descriptor left; the key is in no text of the identity."""
    mine = identity(old)
    assert "PRIVATE" not in repr(mine)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    Certificates().install(mine)
    monkeypatch.delattr(os, "memfd_create")
    Certificates().install(mine)
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_rotation_under_load(old: Authority, serving: tuple[Certificates, Server]) -> None:
    """Handshakes from two threads while the leaf changes twenty times: none fails."""
    certificates, server = serving
    certificates.install(identity(old))
    stopped = threading.Event()

    def keep_visiting() -> int:
        count = 0
        while not stopped.is_set():
            count += shown(server, member(old)) == spiffe("reviews")
        return count

    with ThreadPoolExecutor(2) as threads:
        visitors = [threads.submit(keep_visiting) for _ in range(2)]
        for _ in range(20):
            certificates.install(identity(old))
        stopped.set()
        assert all(visitor.result() > 0 for visitor in visitors)
    assert server.refusals == []
