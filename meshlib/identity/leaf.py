"""What a certificate says about its holder. With `csr`, `chain` and `assertion`, the only place that knows certificates.

Rule 1: an identity is a URI subject alternative name of the scheme `spiffe`, and then it is the only URI (X.509-SVID 2).
Rule 2: nothing here checks signatures: TLS has done so before a certificate arrives here.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from meshlib.errors import IdentityError

# Not all of cryptography's errors are ValueErrors.
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading certificates and requests may raise."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The facts of a leaf certificate.

    Args:
        spiffe_id: URI SAN; empty if the certificate has none.
        not_before, not_after: seconds since the epoch.
        fingerprint: SHA-256 of the DER, lower-case hex.
    """

    spiffe_id: str
    not_before: float
    not_after: float
    fingerprint: str


def leaf_from_der(der: bytes) -> Leaf:
    """The facts of a certificate. Raises IdentityError if it cannot be read or names a SPIFFE id beside another URI."""
    try:
        return _facts(x509.load_der_x509_certificate(der))
    except UNREADABLE as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error


def leaf_from_pem(pem: str) -> Leaf:
    """The facts of the first certificate of a PEM text. Raises IdentityError as `leaf_from_der` does."""
    try:
        return _facts(x509.load_pem_x509_certificate(pem.encode()))
    except UNREADABLE as error:
        raise IdentityError(f"the certificate cannot be read: {error}") from error


def _facts(certificate: x509.Certificate) -> Leaf:
    return Leaf(
        _spiffe_id(certificate),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _spiffe_id(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    ids = [uri for uri in uris if uri.startswith("spiffe://")]
    if ids and len(uris) > 1:
        raise IdentityError(f"the certificate names {len(uris)} URIs ({', '.join(uris)}); a SPIFFE id must be the only one")
    return ids[0] if ids else ""
