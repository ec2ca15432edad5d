"""Certificates that were taken back before their time, for where TLS does not look them up by itself.

Rule 1: nothing here checks the signature of a list: whoever brings it has done so.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from cryptography import x509

from meshlib.errors import IdentityError
from meshlib.identity.leaf import UNREADABLE

_END = b"-----END X509 CRL-----"


def refuse_revoked(leaf_pem: bytes, revoked_pem: bytes) -> None:
    """Return if no list of the leaf's issuer names it.

    Args:
        revoked_pem: lists, PEM; empty: there are none.

    Raises:
        IdentityError: a list names it, or one of them cannot be read.
    """
    if not revoked_pem:
        return
    leaf = x509.load_pem_x509_certificate(leaf_pem)
    try:
        when = _revoked_at(leaf, _lists(revoked_pem))
    except UNREADABLE as error:  # entries and names are read no earlier than they are asked for
        raise IdentityError(f"the revocation list cannot be read: {error}") from error
    if when is not None:
        raise IdentityError(
            f"the certificate with the serial number {leaf.serial_number:x} was revoked at {when:%Y-%m-%d %H:%M} UTC"
        )


def _revoked_at(leaf: x509.Certificate, lists: Iterable[x509.CertificateRevocationList]) -> datetime | None:
    for one in lists:
        entry = one.get_revoked_certificate_by_serial_number(leaf.serial_number) if one.issuer == leaf.issuer else None
        if entry is not None:
            return entry.revocation_date_utc
    return None


@lru_cache(maxsize=4)  # the one in force, and some that others still hold
def _lists(revoked_pem: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    return tuple(x509.load_pem_x509_crl(block + _END) for block in revoked_pem.split(_END)[:-1])
