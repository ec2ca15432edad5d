"""An authority that somebody else made: key and certificate of an intermediate, plugged in as files in Istio's layout.

    ca-cert.pem      the certificate that signs
    ca-key.pem       its key: EC, or RSA of at least 2048 bits; its owner alone may read it
    cert-chain.pem   what leads from it to a root; the certificate itself and the root may be in it
    root-cert.pem    the roots to trust
    ca-crl.pem       optional: certificates that count no more, for every issuer of leaves

Rule 1: the files are looked at again and again; others take effect in the running mesh, as a whole or not at all. What cannot
        be used is told, and what was good before goes on.
Rule 2: there is no root's key here, so a root is replaced by who has it: first both roots in root-cert.pem, then what the new
        one has signed, last the old root taken out. `meshlib ca show` says when everybody has the newest roots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshlib.errors import SettingsError

from .ca import CertificateAuthority, SigningKey
from .ca_roots import described, write_copy
from .errors import CannotStart
from .looking import looking
from .private_file import read_private

CERTIFICATE, KEY, CHAIN, ROOTS, REVOKED = "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem", "ca-crl.pem"
FILES = (CERTIFICATE, KEY, CHAIN, ROOTS, REVOKED)


_log = logging.getLogger(__name__)


class PluggedAuthority:
    """What the files say, as they are now. Changed in one thread; `current` may be read in any.

    Args:
        folder: with the files.
        data: of the control plane; gets a copy of the roots.
        missing: names of clients that do not have the roots of now.
        clock: the time of day, UTC.

    Raises:
        CannotStart: the files cannot be used; names the one at fault.
    """

    def __init__(
        self, folder: Path, data: Path, clock: Callable[[], datetime], missing: Callable[[], list[str]] = list
    ) -> None:
        self._folder, self._data, self._clock, self._missing = folder, data, clock, missing
        self._seen = _state(folder)
        self.current = load(folder, clock())
        self._listeners: list[Callable[[], None]] = []
        write_copy(data, self.current)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change of what is trusted or signs."""
        self._listeners.append(listener)

    def granted(self, lifetime: timedelta) -> None:
        """A certificate was issued: nothing to note, its root is retired by somebody else."""

    def begin(self) -> None:
        """Raises SettingsError: the root's key is elsewhere."""
        raise SettingsError(
            f"the root's key is not here: this authority is plugged in. Put both roots into {self._folder / ROOTS}; when "
            f"`meshlib ca show` misses nobody, put what the new root signed into {CERTIFICATE}, {KEY} and {CHAIN}; and take "
            "the old root out when its last certificate is over"
        )

    def step(self, *, hurry: bool = False) -> bool:
        """Take other files into use. Returns whether there were any.

        Args:
            hurry: there is nothing to hurry.

        Raises:
            CannotStart: they cannot be used; what was good before goes on.
        """
        state = _state(self._folder)
        if state == self._seen:
            return False
        made = load(self._folder, self._clock())
        self._seen = state
        if made == self.current:
            return False
        self.current = made
        write_copy(self._data, made)
        for listener in self._listeners:
            listener()
        _log.warning("the authority in %s was replaced", self._folder)
        return True

    def status(self) -> dict[str, Any]:
        """How it stands, for people and programs."""
        signing, *others = self.current.roots
        return {
            "phase": "plugged",
            "roots": [described(signing, signs=True), *(described(one, signs=False) for one in others)],
            "waitingFor": sorted(self._missing()),
            "oldRootUntil": "",
        }

    def running(self) -> AbstractAsyncContextManager[None]:
        """Looks at the files while the context lasts."""
        return looking(self.step, f"the certificates of before stay in use, {self._folder} cannot be used", _log)


def load(folder: Path, now: datetime) -> CertificateAuthority:
    """The authority in a folder.

    Raises:
        CannotStart: a file is missing or broken, they do not belong together, a certificate is over or may not sign; names the
            file.
    """
    certificate = _certificates(folder / CERTIFICATE)[0]
    key = _key(folder / KEY)
    if certificate.public_key() != key.public_key():
        raise CannotStart(f"{KEY} and {CERTIFICATE} in {folder} do not belong together", "put both of one authority there")
    _judge(certificate, folder / CERTIFICATE, now)
    roots = _certificates(folder / ROOTS)
    for root in roots:
        _judge(root, folder / ROOTS, now)
    given = _certificates(folder / CHAIN) if (folder / CHAIN).exists() else []
    chain, root = _path(certificate, given, roots, folder)
    for one in chain:
        _judge(one, folder / CHAIN, now)
    first = [root, *(one for one in roots if one != root)]
    revoked = _revoked(folder / REVOKED, [certificate, *given, *roots])
    return CertificateAuthority(key, certificate, tuple(first), tuple(chain), revoked=revoked)


def _path(
    certificate: x509.Certificate, given: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], folder: Path
) -> tuple[list[x509.Certificate], x509.Certificate]:
    """What is to be sent after a leaf, the issuer first and the root left out; and the root."""
    chain: list[x509.Certificate] = []
    at = certificate
    while True:
        if at in roots:
            return chain, at
        chain.append(at)
        root = next((one for one in roots if _issued(at, one)), None)
        if root is not None:
            return chain, root
        above = next((one for one in given if one not in chain and _issued(at, one)), None)
        if above is None:
            raise CannotStart(
                f"{at.subject.rfc4514_string()!r} in {folder} leads to no root: its issuer {at.issuer.rfc4514_string()!r} is "
                f"neither in {CHAIN} nor in {ROOTS}",
                f"put the missing certificate into {folder / CHAIN}",
            )
        at = above


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _judge(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    name = certificate.subject.rfc4514_string()
    if not _may_sign(certificate):
        raise CannotStart(f"{name!r} in {path} may not sign certificates", "make it with basicConstraints CA and keyCertSign")
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise CannotStart(f"{name!r} in {path} is not valid before {begins}", "set the clock, or wait")
    if now >= certificate.not_valid_after_utc:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise CannotStart(f"{name!r} in {path} ended at {ended}", "replace it")


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return basic.ca  # no restriction (RFC 5280 4.2.1.3)
    return basic.ca and usage.key_cert_sign


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise CannotStart(f"cannot read {path}: {error.strerror}", f"ls -l {path.parent}") from error
    except ValueError as error:
        raise CannotStart(f"{path} holds no certificates in PEM ({error})", "replace it") from error


def _key(path: Path) -> SigningKey:
    content = read_private(path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"{path} holds no private key in PEM without a password ({error})", "replace it") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) or (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048):
        return key
    raise CannotStart(f"the key in {path} is not good enough", "use an EC key, or RSA with at least 2048 bits")


def _revoked(path: Path, issuers: Sequence[x509.Certificate]) -> bytes:
    """The revocation lists, PEM; empty: there are none."""
    if not path.exists():
        return b""
    content = path.read_bytes()
    end = b"-----END X509 CRL-----"
    blocks = [block + end for block in content.split(end)[:-1]]
    try:
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError as error:
        raise CannotStart(f"{path} holds no revocation lists in PEM ({error})", "replace it, or remove it") from error
    for one in lists:
        if not any(_is_signed(one, issuer) for issuer in issuers):
            raise CannotStart(
                f"a revocation list in {path} is not signed by {one.issuer.rfc4514_string()!r}, or that is not beside it",
                "replace it, or remove it",
            )
    return b"\n".join(block.strip() for block in blocks) + b"\n" if blocks else b""


def _is_signed(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return False
    return revoked.issuer == issuer.subject and revoked.is_signature_valid(key)


def _state(folder: Path) -> tuple[object, ...]:
    """Differs whenever a file may differ."""
    found: list[object] = []
    for name in FILES:
        try:
            status = (folder / name).stat()
            found.append((name, status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError:
            found.append((name, None))
    return tuple(found)
