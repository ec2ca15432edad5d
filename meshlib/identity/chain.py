"""Whether a chain of certificates leads to a trusted root: for certificates that did not come through TLS.

Rule 1: the path is checked by `cryptography`'s verifier (RFC 5280 and the CA/Browser Forum's profile): signatures, who may
issue, how deep, critical extensions, use as a client.
Rule 2: the leaf's times are judged here, with room for clocks that differ, so that the answer can name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from meshlib.errors import IdentityError
from meshlib.identity.leaf import UNREADABLE, Leaf, leaf_from_der
from meshlib.identity.revocation import refuse_revoked
from meshlib.identity.rotation import Validity, explain, judge


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A client's leaf that a root vouches for.

    Args:
        leaf: its facts; `spiffe_id` is never empty here.
        key_pem: its P-256 public key.
    """

    leaf: Leaf
    key_pem: bytes


def proven_leaf(chain: Sequence[bytes], roots_pem: bytes, now: float, skew: float, revoked_pem: bytes = b"") -> ProvenLeaf:
    """The leaf of a chain, if the root vouches for it as a client of the mesh now.

    Args:
        chain: DER, leaf first, then intermediates; at least one.
        now: seconds since the epoch.
        skew: seconds by which the leaf's times may be missed.
        revoked_pem: lists of certificates that count no more; empty: there are none.

    Raises:
        IdentityError: the certificates cannot be read, do not lead to a root, are over, revoked or not for clients, the leaf
            names none or several identities, or its key is not P-256.
    """
    try:
        leaf, *between = [x509.load_der_x509_certificate(der) for der in chain]
        _follow(leaf, between, roots_pem, _within(now, leaf))
        # From here on the certificate's content may be quoted: it is what this root's authority wrote.
        facts = leaf_from_der(chain[0])
        _check_names(leaf)
        _check_use(leaf)
        refuse_revoked(leaf.public_bytes(serialization.Encoding.PEM), revoked_pem)
        key_pem = _p256(leaf)
    except VerificationError as error:
        raise IdentityError(f"the certificate is not one that this root vouches for: {error}") from error
    except UNREADABLE as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error
    if judge(now, facts.not_before - skew, facts.not_after + skew) is not Validity.VALID:
        why = explain(now, facts.not_before, facts.not_after)
        raise IdentityError(f"the certificate of {facts.spiffe_id} cannot be used: {why}")
    return ProvenLeaf(facts, key_pem)


def _follow(leaf: x509.Certificate, between: list[x509.Certificate], roots_pem: bytes, moment: datetime) -> None:
    store = Store(x509.load_pem_x509_certificates(roots_pem))
    PolicyBuilder().store(store).time(moment).build_client_verifier().verify(leaf, between)


def _within(now: float, leaf: x509.Certificate) -> datetime:
    """Now, or the nearest moment of the leaf's life: the verifier has no skew, and its answer would name no times."""
    return min(max(datetime.fromtimestamp(now, UTC), leaf.not_valid_before_utc), leaf.not_valid_after_utc)


def _check_names(leaf: x509.Certificate) -> None:
    # X.509-SVID 2: exactly one URI. `leaf_from_der` lets certificates without an identity pass; here there must be one.
    uris = [
        name.value
        for extension in leaf.extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value
        if isinstance(name, x509.UniformResourceIdentifier)
    ]
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise IdentityError(f"the certificate must name exactly one SPIFFE id, it names {', '.join(uris) or 'none'}")


def _check_use(leaf: x509.Certificate) -> None:
    # The verifier refuses another use; a certificate that names none would be good for all, and ours name theirs.
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CLIENT_AUTH in extension.value:
            return
    raise IdentityError("the certificate is not for clients: its extended key usage lacks clientAuth")


def _p256(leaf: x509.Certificate) -> bytes:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("the certificate's key must be P-256")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
