"""The inbound room: who enters, what the application is told, whose request it is."""

from __future__ import annotations

import contextvars

import pytest

from meshlib.config.jwt import METADATA
from meshlib.config.model import PeerMode
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort, Wire, admit_connection, wire
from meshlib.inbound.forwarded import forged, forwarded_client_cert
from meshlib.inbound.sender import claims, enter, leave, let_in, peer
from meshlib.inbound.visit import Denied, Permit, Visit
from meshlib.runtime.admission import admit_sync

PRODUCTPAGE = Peer("spiffe://cluster.local/ns/default/sa/productpage", "10.0.0.7:51234", "ab" * 32)
STRANGER = Peer("", "10.0.0.8:51234")
REQUEST = Request("GET", "http", "reviews:9080", "/reviews/0")


def admit(port: InboundPort, sender: Peer) -> Permit | Denied:
    """The answer to a plain GET."""
    return admit_sync(port, Visit(REQUEST, sender))


@pytest.mark.parametrize(
    ("mode", "seen", "enters"),
    [
        (PeerMode.PERMISSIVE, Wire.PLAIN, True),
        (PeerMode.PERMISSIVE, Wire.TLS, True),
        (PeerMode.STRICT, Wire.PLAIN, False),
        (PeerMode.STRICT, Wire.TLS, True),
        (PeerMode.DISABLE, Wire.PLAIN, True),
        (PeerMode.DISABLE, Wire.TLS, False),
    ],
)
def test_the_mode_of_the_port_decides_which_connections_enter(mode: PeerMode, seen: Wire, enters: bool) -> None:
    """PERMISSIVE takes both, STRICT mutual TLS only, DISABLE plain text only."""
    assert (admit_connection(InboundPort(mode), seen) is None) is enters


def test_a_port_is_permissive_until_told_otherwise() -> None:
    """Istio: without a PeerAuthentication, PERMISSIVE."""
    assert InboundPort().mode is PeerMode.PERMISSIVE


@pytest.mark.parametrize("first", range(256))
def test_only_a_hello_is_tls(first: int) -> None:
    """0x16 is TLS; every other byte is plain text."""
    assert (wire(first) is Wire.TLS) == (first == 22)


def test_a_request_on_an_old_plain_connection_is_denied_once_strict() -> None:
    """A keep-alive connection made under PERMISSIVE does not outlive STRICT."""
    assert admit(InboundPort(PeerMode.PERMISSIVE), STRANGER) == Permit(STRANGER, REQUEST, {}, [])
    denied = admit(InboundPort(PeerMode.STRICT), STRANGER)
    assert isinstance(denied, Denied)
    assert denied.status == 403


@pytest.mark.parametrize("mode", PeerMode)
def test_a_proved_peer_enters_in_every_mode(mode: PeerMode) -> None:
    """Mutual TLS proves more than any mode asks for."""
    assert admit(InboundPort(mode), PRODUCTPAGE) == Permit(PRODUCTPAGE, REQUEST, {}, [])


def test_a_peer_of_another_trust_domain_is_denied() -> None:
    """One root may vouch for several meshes; their names tell them apart. Plain text has no name to compare."""
    port = InboundPort(trust_domains=frozenset({"new.example", "cluster.local"}))
    assert isinstance(admit(port, PRODUCTPAGE), Permit)
    assert isinstance(admit(port, STRANGER), Permit)
    for name in ("spiffe://elsewhere/ns/default/sa/productpage", "spiffe://cluster.local.evil/ns/default/sa/productpage", ""):
        denied = admit(port, Peer(name, "10.0.0.7:51234", "ab" * 32))
        assert isinstance(denied, Denied)
        assert "another trust domain" in denied.reason


def test_xfcc_has_istios_form() -> None:
    """By, Hash, an empty quoted Subject, URI, in that order."""
    ours = "spiffe://cluster.local/ns/default/sa/reviews"
    assert forwarded_client_cert(ours, PRODUCTPAGE) == (
        f'By={ours};Hash={"ab" * 32};Subject="";URI=spiffe://cluster.local/ns/default/sa/productpage'
    )


def test_a_plain_peer_gets_no_xfcc() -> None:
    """Without a certificate there is nothing to tell."""
    assert forwarded_client_cert("spiffe://cluster.local/ns/default/sa/reviews", STRANGER) is None


@pytest.mark.parametrize(
    ("name", "is_forged"),
    [
        ("x-forwarded-client-cert", True),
        ("X-Forwarded-Client-Cert", True),
        ("x_forwarded_client-cert", True),
        ("x-forwarded-for", False),
    ],
)
def test_a_client_cannot_send_xfcc_in_any_spelling(name: str, is_forged: bool) -> None:
    """Underscores become the same CGI variable, so they count as the same header."""
    assert forged(name) is is_forged


def test_the_peer_is_nobody_outside_a_request() -> None:
    """Code outside a request gets an empty peer, no error."""
    assert contextvars.Context().run(peer) == Peer()


def test_the_peer_lasts_as_long_as_its_request() -> None:
    """`enter` sets, `leave` restores."""

    def one_request() -> tuple[Peer, Peer]:
        token = enter(PRODUCTPAGE)
        during = peer()
        leave(token)
        return during, peer()

    assert contextvars.Context().run(one_request) == (PRODUCTPAGE, Peer())


def test_claims_are_those_of_the_current_request() -> None:
    """As the filters proved them; a copy, and gone with the request."""

    def serve() -> None:
        token = enter(STRANGER)
        assert claims() == {}
        proved = {METADATA: {"payload": {"sub": "joe", "groups": ["a"]}}}
        let_in(proved)
        claims()["groups"].append("admin")
        assert claims() == {"sub": "joe", "groups": ["a"]}
        leave(token)
        assert claims() == {}

    contextvars.copy_context().run(serve)
    assert claims() == {}
