"""The certificate authority of one moment: what it signs with, whom it tells to trust, and leaf certificates from requests.

Rule 1: the credential decides the identity. Of a request only the public key is used; its subject, names and extensions are
        ignored (Istio, `security/pkg/server/ca/server.go`: SANs come from the authenticated caller).
Rule 2: a weak key is refused: whoever breaks it would have the identity (`ca_request`).
Rule 3: nothing here changes. An authority that gets another key or other roots is another value (`ca_roots`, `ca_plugged`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .ca_request import requested_key

CERTIFICATE_FILE = "root-cert.pem"
"""In the control plane's data folder: the roots to trust, for people to give to those who join."""

DEFAULT_LIFETIME = timedelta(hours=24)  # Istio's SECRET_TTL
LONGEST_LIFETIME = timedelta(days=90)  # Istio's MAX_WORKLOAD_CERT_TTL
SERVER_LIFETIME = timedelta(days=7)
BACKDATED = timedelta(minutes=2)  # so that a client with a clock slightly behind accepts it

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What a TLS server of ours shows: PEM chain (leaf first), PEM key, and when the leaf ends."""

    chain: bytes
    key: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A key that signs, and everything that goes with its signatures.

    Args:
        key, certificate: the issuer of leaves: a root or an intermediate.
        roots: whom members trust. The one that new leaves lead to comes first: members take a new first root as the sign to
            renew. Empty: the issuer itself.
        chain: sent after each leaf: what leads from it to a root.
        introduction: sent besides by the control plane itself, for those who know no newer root than the one before.
        revoked: PEM of revocation lists; empty: there are none, and nothing is checked.
    """

    key: SigningKey
    certificate: x509.Certificate
    roots: tuple[x509.Certificate, ...] = ()
    chain: tuple[x509.Certificate, ...] = ()
    introduction: tuple[x509.Certificate, ...] = ()
    revoked: bytes = b""

    @property
    def roots_pem(self) -> bytes:
        """What clients must trust, PEM."""
        return b"".join(map(pem_of, self.roots or (self.certificate,)))

    def issue(self, request_pem: str, spiffe_id: str, lifetime: timedelta, now: datetime) -> list[str]:
        """A certificate for the key of a signing request, in the name that the caller's credential proved.

        Args:
            request_pem: PKCS #10, PEM.
            spiffe_id: the only name of the certificate: URI SAN, critical because the subject is empty (RFC 5280 4.2.1.6).
            lifetime: asked for; zero or less means 24 hours, more than 90 days is cut to 90 days.

        Returns:
            PEM certificates, leaf first, then what leads to a root; last all roots in one text, as Istio's CreateCertificate
            answers.

        Raises:
            RequestRejected: the request is broken or its key weak.
        """
        key = requested_key(request_pem)
        builder = (
            self._leaf(key, bounded(lifetime), now)
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
        )
        return [one.decode() for one in (*map(pem_of, (self._sign(builder), *self.chain)), self.roots_pem)]

    def server_certificate(self, hosts: Iterable[str], now: datetime) -> ServerCertificate:
        """A certificate with a new key for the control plane itself, valid for localhost, loopback and `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_general_name(host) for host in dict.fromkeys(["localhost", "127.0.0.1", "::1", *hosts])]
        builder = (
            self._leaf(key.public_key(), SERVER_LIFETIME, now)
            .subject_name(common_name("meshlib control plane"))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        leaf = self._sign(builder)
        shown = dict.fromkeys((leaf, *self.chain, *self.introduction))
        return ServerCertificate(
            chain=b"".join(map(pem_of, shown)),
            key=key_pem(key),
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
            .public_key(key)  # type: ignore[arg-type]  # `requested_key` lets only EC and RSA keys pass
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_leaf_usage(), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(issuer_key_identifier(self.certificate), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def open_authority(folder: Path, now: datetime, organization: str = "cluster.local") -> CertificateAuthority:
    """The authority of a data folder, made there on the first start, as it is now. See `ca_roots.open_roots`."""
    from .ca_roots import open_roots

    return open_roots(folder, now, organization).current


def bounded(lifetime: timedelta) -> timedelta:
    """The lifetime that a certificate gets: 24 hours if none is asked for, never more than 90 days."""
    return DEFAULT_LIFETIME if lifetime <= timedelta(0) else min(lifetime, LONGEST_LIFETIME)


def end_of(certificate_pem: str) -> datetime:
    """When a certificate ends, UTC."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


def issuer_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Which of several issuers of one name it was: the issuer's own word for its key, or the usual hash of it."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]  # EC or RSA
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def common_name(name: str, organization: str = "") -> x509.Name:
    """A subject or issuer."""
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: SigningKey) -> bytes:
    """A private key as PEM: PKCS #8, not encrypted."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def usage(**allowed: bool) -> x509.KeyUsage:
    """A key usage with nothing in it but what is named."""
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


def _leaf_usage() -> x509.KeyUsage:
    # Encipherment is for RSA key exchange, which clients with RSA keys may still check for.
    return usage(digital_signature=True, key_encipherment=True)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _whole_seconds_up(moment: datetime) -> datetime:
    # X.509 has whole seconds only; cutting would end a certificate of a few seconds early.
    return moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1 if moment.microsecond else 0)
