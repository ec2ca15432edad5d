import hashlib
import ssl

import pytest
from cryptography import x509

from meshlib.errors import IdentityError, PeerRejected
from meshlib.facts import Peer
from meshlib.identity.leaf import leaf_from_der, leaf_from_pem
from meshlib.identity.peer import peer_from_der, verify
from tests.support.pki import Authority, Leaf, spiffe

REVIEWS = spiffe("reviews")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def der(leaf: Leaf) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.chain.decode())


def test_a_peer_is_its_uri_and_its_hash(authority: Authority) -> None:
    """The SPIFFE id of the URI SAN, and SHA-256 of the leaf as Envoy puts it into XFCC."""
    leaf = der(authority.issue("reviews"))
    assert peer_from_der(leaf, "10.0.0.1:4711") == Peer(REVIEWS, "10.0.0.1:4711", hashlib.sha256(leaf).hexdigest())


def test_no_certificate_is_a_plain_peer() -> None:
    """Plain text: an address and nothing more."""
    peer = peer_from_der(b"", "10.0.0.1:1")
    assert (peer, peer.secured) == (Peer(address="10.0.0.1:1"), False)


def test_times_are_read(authority: Authority) -> None:
    """A leaf tells its life in seconds since the epoch, the same from DER and PEM."""
    leaf = authority.issue("reviews")
    read = leaf_from_pem(leaf.chain.decode())
    assert read.not_after - read.not_before == 65 * 60
    assert read == leaf_from_der(der(leaf))


def test_the_expected_peer_is_accepted(authority: Authority) -> None:
    """One of several expected ids is enough; none expected means any member."""
    leaf = der(authority.issue("reviews"))
    assert verify(leaf, frozenset({spiffe("ratings"), REVIEWS})).spiffe_id == REVIEWS
    assert verify(leaf, frozenset()).spiffe_id == REVIEWS


def test_another_peer_is_rejected_by_name(authority: Authority) -> None:
    """The message says who answered and who should have."""
    with pytest.raises(PeerRejected) as caught:
        verify(der(authority.issue("evil")), frozenset({REVIEWS}), "10.0.0.1:9080")
    assert str(caught.value) == f"the peer 10.0.0.1:9080 is {spiffe('evil')}, expected {REVIEWS}"


@pytest.mark.parametrize(
    ("uri", "message"), [("", "a certificate without SPIFFE id"), ("https://x.org/a", "a certificate without SPIFFE id")]
)
def test_a_certificate_without_id_is_rejected(authority: Authority, uri: str, message: str) -> None:
    """Neither no SAN nor a URI of another scheme is an identity."""
    with pytest.raises(PeerRejected, match=message):
        verify(der(authority.issue(uri=uri)), frozenset({REVIEWS}))


def test_an_identity_is_compared_whole(authority: Authority) -> None:
    """An id that only begins as expected is another one."""
    with pytest.raises(PeerRejected):
        verify(der(authority.issue("reviews-evil")), frozenset({REVIEWS}))


@pytest.mark.parametrize("other", [REVIEWS, "https://x.org/a"])
def test_two_identities_are_none(authority: Authority, other: str) -> None:
    """A certificate that names a SPIFFE id beside another URI breaks X.509-SVID and is refused."""
    both = der(authority.issue("evil", names=(x509.UniformResourceIdentifier(other),)))
    with pytest.raises(IdentityError, match="names 2 URIs"):
        peer_from_der(both)
    with pytest.raises(PeerRejected, match="names 2 URIs"):
        verify(both, frozenset({REVIEWS}))


def test_no_certificate_and_no_sense_are_rejected() -> None:
    """Nothing shown, or bytes that are no certificate."""
    with pytest.raises(PeerRejected, match="showed no certificate"):
        verify(b"", frozenset({REVIEWS}))
    with pytest.raises(PeerRejected, match="cannot be read"):
        verify(b"0\x00", frozenset())
    with pytest.raises(IdentityError, match="cannot be read"):
        leaf_from_pem("-----BEGIN NOTHING-----")
