"""Who is on the other side of a TLS connection, and whether that is who was expected."""

from __future__ import annotations

from meshlib.errors import IdentityError, PeerRejected
from meshlib.facts import Peer
from meshlib.identity.leaf import leaf_from_der


def peer_from_der(der: bytes, address: str = "", server_name: str = "") -> Peer:
    """The peer that showed a certificate.

    Args:
        der: its leaf, already verified by TLS; empty: it showed none.
        address: `ip:port` of the other side.
        server_name: what it asked for in its hello.

    Raises:
        IdentityError: the certificate cannot be read or names a SPIFFE id beside another URI.
    """
    if not der:
        return Peer(address=address)
    leaf = leaf_from_der(der)
    return Peer(leaf.spiffe_id, address, leaf.fingerprint, server_name)


def verify(der: bytes, expected: frozenset[str], address: str = "") -> Peer:
    """The peer, if it is one of those expected.

    Args:
        expected: SPIFFE ids that may answer; empty: anyone whom the trust bundle vouches for (Envoy without SAN matchers).

    Raises:
        PeerRejected: it showed no certificate, one that cannot be used, or another identity.
    """
    if not der:
        raise PeerRejected(_sentence(address, "showed no certificate", expected))
    try:
        peer = peer_from_der(der, address)
    except IdentityError as error:
        raise PeerRejected(_sentence(address, f"was refused ({error})", expected)) from error
    if expected and peer.spiffe_id not in expected:
        raise PeerRejected(_sentence(address, f"is {peer.spiffe_id or 'a certificate without SPIFFE id'}", expected))
    return peer


def _sentence(address: str, what: str, expected: frozenset[str]) -> str:
    wanted = " or ".join(sorted(expected)) if expected else "any identity of the mesh"
    return f"the peer {address + ' ' if address else ''}{what}, expected {wanted}"
