"""The certificate authority: one root, and leaf certificates issued from signing requests.

Rule 1: the credential decides the identity. Of a request only the public key is used; its subject, names and extensions are
        ignored (Istio, `security/pkg/server/ca/server.go`: SANs come from the authenticated caller).
Rule 2: the root key never leaves its file, which its owner alone may read.
Rule 3: a weak key is refused: whoever breaks it would have the identity.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshlib.errors import MeshError

from .errors import CannotStart
from .private_file import read_private, replace_file, write_private

KEY_FILE = "root-key.pem"
CERTIFICATE_FILE = "root-cert.pem"

ROOT_LIFETIME = timedelta(days=3650)  # Istio's self-signed root
DEFAULT_LIFETIME = timedelta(hours=24)  # Istio's SECRET_TTL
LONGEST_LIFETIME = timedelta(days=90)  # Istio's MAX_WORKLOAD_CERT_TTL
SERVER_LIFETIME = timedelta(days=7)
BACKDATED = timedelta(minutes=2)  # so that a client with a clock slightly behind accepts it

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RSA_BITS = range(2048, 8193)  # above, one signature check costs a core too long
_REQUEST_BYTES = 32 * 1024


class RequestRejected(MeshError):
    """The certificate signing request is broken or its key too weak; the text says which."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What a TLS server of ours shows: PEM chain (leaf first), PEM key, and when the leaf ends."""

    chain: bytes
    key: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A root key with its certificate. Made by `open_authority`."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def root_pem(self) -> bytes:
        """The root certificate, PEM: what clients must trust."""
        return _pem(self.certificate)

    def issue(self, request_pem: str, spiffe_id: str, lifetime: timedelta, now: datetime) -> list[str]:
        """A certificate for the key of a signing request, in the name that the caller's credential proved.

        Args:
            request_pem: PKCS #10, PEM.
            spiffe_id: the only name of the certificate: URI SAN, critical because the subject is empty (RFC 5280 4.2.1.6).
            lifetime: asked for; zero or less means 24 hours, more than 90 days is cut to 90 days.

        Returns:
            PEM certificates, leaf first, root last, as Istio's CreateCertificate answers.

        Raises:
            RequestRejected: the request is broken or its key weak.
        """
        key = _requested_key(request_pem)
        builder = (
            self._leaf(key, bounded(lifetime), now)
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        )
        return [_pem(self._sign(builder)).decode(), self.root_pem.decode()]

    def server_certificate(self, hosts: Iterable[str], now: datetime) -> ServerCertificate:
        """A certificate with a new key for the control plane itself, valid for localhost, loopback and `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in dict.fromkeys(["localhost", "127.0.0.1", "::1", *hosts])]
        builder = (
            self._leaf(key.public_key(), SERVER_LIFETIME, now)
            .subject_name(_name("meshlib control plane"))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        leaf = self._sign(builder)
        return ServerCertificate(
            chain=_pem(leaf) + self.root_pem,
            key=_key_pem(key),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    def _leaf(self, key: PublicKeyTypes, lifetime: timedelta, now: datetime) -> x509.CertificateBuilder:
        # Clients renew at half of the time between notBefore and notAfter, so a short life must not be mostly backdating.
        starts = now - min(BACKDATED, lifetime / 10)
        ends = min(_whole_seconds_up(now + lifetime), self.certificate.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .issuer_name(self.certificate.subject)
            .public_key(key)  # type: ignore[arg-type]  # `_requested_key` lets only EC and RSA keys pass
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_leaf_usage(), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def open_authority(folder: Path, now: datetime, organization: str = "cluster.local") -> CertificateAuthority:
    """The authority kept in a folder; made there on the first start.

    Args:
        folder: holds `root-key.pem` (mode 0600) and `root-cert.pem`.
        organization: the trust domain, for people who look at the root certificate.

    Raises:
        CannotStart: the key can be read by others, one of the two files is missing or broken, they do not belong together,
            or the root is not valid now.
    """
    key_file, certificate_file = folder / KEY_FILE, folder / CERTIFICATE_FILE
    if not key_file.exists() and not certificate_file.exists():
        return _create(key_file, certificate_file, now, organization)
    authority = CertificateAuthority(_load_key(key_file), _load_certificate(certificate_file))
    _judge(authority, folder, now)
    return authority


def bounded(lifetime: timedelta) -> timedelta:
    """The lifetime that a certificate gets: 24 hours if none is asked for, never more than 90 days."""
    return DEFAULT_LIFETIME if lifetime <= timedelta(0) else min(lifetime, LONGEST_LIFETIME)


def end_of(certificate_pem: str) -> datetime:
    """When a certificate ends, UTC."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


def _create(key_file: Path, certificate_file: Path, now: datetime, organization: str) -> CertificateAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed(key, now, organization)
    # The key last: a crash between the two leaves a certificate without key, which the next start names.
    replace_file(certificate_file, _pem(certificate))
    write_private(key_file, _key_pem(key))
    return CertificateAuthority(key, certificate)


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime, organization: str) -> x509.Certificate:
    name = _name("meshlib root", organization)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_root_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    pem = read_private(path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"{path} holds no usable private key ({error})", "restore it from a backup") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CannotStart(f"{path} must hold an elliptic curve key, not {type(key).__name__}", "restore it from a backup")
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CannotStart(f"cannot read {path}: {error.strerror}", "restore it from a backup") from error
    except ValueError as error:
        raise CannotStart(f"{path} holds no certificate ({error})", "restore it from a backup") from error


def _judge(authority: CertificateAuthority, folder: Path, now: datetime) -> None:
    certificate = authority.certificate
    if certificate.public_key() != authority.key.public_key():
        raise CannotStart(
            f"{KEY_FILE} and {CERTIFICATE_FILE} in {folder} do not belong together",
            "restore both from one backup; or remove both to make a new root, and give its certificate to every service",
        )
    if now < certificate.not_valid_before_utc:
        raise CannotStart(
            f"the root certificate in {folder} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, "
            f"and this machine says it is {now:%Y-%m-%d %H:%M} UTC",
            "set the clock",
        )
    if now >= certificate.not_valid_after_utc:
        raise CannotStart(
            f"the root certificate in {folder} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            f"remove {KEY_FILE} and {CERTIFICATE_FILE} to make a new root, and give its certificate to every service",
        )


def _requested_key(request_pem: str) -> PublicKeyTypes:
    if len(request_pem) > _REQUEST_BYTES:
        raise RequestRejected(f"the signing request has {len(request_pem)} bytes, at most {_REQUEST_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise RequestRejected(f"the signing request is no PKCS #10 request in PEM: {error}") from error
    if not signed:
        raise RequestRejected("the signing request is not signed by the key it names")
    _refuse_weak(key)
    return key


def _refuse_weak(key: PublicKeyTypes) -> None:
    match key:
        case ec.EllipticCurvePublicKey(curve=curve) if curve.name in _CURVES:
            return
        case rsa.RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            return
        case ec.EllipticCurvePublicKey(curve=curve):
            seen = f"curve {curve.name}"
        case rsa.RSAPublicKey(key_size=bits):
            seen = f"RSA with {bits} bits"
        case _:
            seen = type(key).__name__.removesuffix("PublicKey")
    raise RequestRejected(f"the key ({seen}) is not accepted: use P-256, P-384, P-521, or RSA with 2048 to 8192 bits")


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _whole_seconds_up(moment: datetime) -> datetime:
    # X.509 has whole seconds only; cutting would end a certificate of a few seconds early.
    return moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1 if moment.microsecond else 0)


def _leaf_usage() -> x509.KeyUsage:
    # Encipherment is for RSA key exchange, which clients with RSA keys may still check for.
    return _usage(digital_signature=True, key_encipherment=True)


def _root_usage() -> x509.KeyUsage:
    return _usage(key_cert_sign=True, crl_sign=True)


def _usage(**allowed: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in every})
