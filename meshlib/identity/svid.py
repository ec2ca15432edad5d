"""X.509-SVIDs as the SPIFFE Workload API carries them: ASN.1 DER, one certificate directly after another.

Rule 1: what an agent hands out is checked as the control plane will check it (`chain`): so a fault is told where it is made.
Rule 2: keys are changed from one form to the other in memory only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from meshlib.errors import IdentityError
from meshlib.identity.chain import proven_leaf
from meshlib.identity.leaf import UNREADABLE, Leaf, leaf_from_der
from meshlib.identity.spiffe import SpiffeId

_SEQUENCE = 0x30


@dataclass(frozen=True, slots=True)
class Svid:
    """One identity as a message of the Workload API has it.

    Args:
        spiffe_id: whose it is.
        chain: leaf first, then intermediates.
        key: PKCS #8, not encrypted.
        bundle: the roots of its trust domain.
    """

    spiffe_id: str
    chain: bytes
    key: bytes = field(repr=False)
    bundle: bytes


def svid_from_pem(chain: str, key: bytes, roots: str) -> Svid:
    """A certificate of ours in the API's form. Raises IdentityError if it cannot be read or has no SPIFFE id."""
    try:
        leaf_first, trusted = _der_of(chain), _der_of(roots)
        loaded = serialization.load_pem_private_key(key, password=None)
    except UNREADABLE as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error
    pkcs8 = loaded.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    spiffe_id = SpiffeId.parse(leaf_from_der(leaf_first[0]).spiffe_id)
    return Svid(str(spiffe_id), b"".join(leaf_first), pkcs8, b"".join(trusted))


def checked(svid: Svid, now: float) -> Leaf:
    """What the leaf of an SVID says, if a member of the mesh can use the SVID.

    Raises:
        IdentityError: it is not whose it is said to be, does not lead to its bundle, is not valid now; its SPIFFE id is not of
            Istio's form, or its key is not P-256.
    """
    SpiffeId.parse(svid.spiffe_id)
    leaf = proven_leaf(split(svid.chain), bundle_pem(svid.bundle).encode(), now, skew=0).leaf
    if leaf.spiffe_id != svid.spiffe_id:
        raise IdentityError(f"the certificate is of {leaf.spiffe_id}, and the message says {svid.spiffe_id}")
    return leaf


def chain_pem(svid: Svid) -> str:
    """The leaf and its intermediates. Raises IdentityError as `split` does."""
    return _pem_of(split(svid.chain))


def key_pem(svid: Svid) -> bytes:
    """The private key. Raises IdentityError if it cannot be read."""
    try:
        key = serialization.load_der_private_key(svid.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the private key of {svid.spiffe_id} cannot be read: it must be PKCS #8 in DER") from error
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def bundle_pem(bundle: bytes) -> str:
    """Roots. Raises IdentityError for none, or for what are no certificates."""
    return _pem_of(split(bundle))


def split(der: bytes) -> list[bytes]:
    """The values of a row of DER values, at least one. Raises IdentityError if it is none."""
    found = list(_values(der))
    if not found:
        raise IdentityError("there is no certificate in it")
    return found


def _values(der: bytes) -> Iterator[bytes]:
    # X.690 8.1.3: a byte for the tag, then the length: itself below 128, or the number of the bytes that hold it.
    at = 0
    while at < len(der):
        head = der[at : at + 2]
        more = head[1] & 0x7F if len(head) == 2 and head[1] & 0x80 else 0
        length = int.from_bytes(der[at + 2 : at + 2 + more]) if more else (head[-1])
        end = at + 2 + more + length
        if len(head) < 2 or head[0] != _SEQUENCE or more > 4 or end > len(der):
            raise IdentityError(f"at byte {at} of {len(der)} no certificate in DER begins")
        yield der[at:end]
        at = end


def _der_of(pem: str) -> list[bytes]:
    return [one.public_bytes(serialization.Encoding.DER) for one in x509.load_pem_x509_certificates(pem.encode())]


def _pem_of(certificates: list[bytes]) -> str:
    try:
        loaded = [x509.load_der_x509_certificate(der) for der in certificates]
    except UNREADABLE as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in loaded)
