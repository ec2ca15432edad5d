"""An authority in Istio's `cacerts` layout, as its `tools/certs` makes it: a root, an intermediate, the chain of both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issuer:
    """A certificate that may sign, with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = serialization.PrivateFormat.TraditionalOpenSSL
        return bytes(self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

    def below(
        self, name: str, *, kind: str = "ec", ca: bool = True, since: timedelta = DAY, life: timedelta = 30 * DAY
    ) -> Issuer:
        """Another one, signed by this."""
        return made(name, self, kind=kind, ca=ca, since=since, life=life)

    def revocations(self, *serials: int, life: timedelta = DAY) -> bytes:
        """A list of this issuer, PEM."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(self.certificate.subject, now - DAY, now + life)
        for serial in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now - timedelta(hours=1)).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def made(
    name: str,
    issuer: Issuer | None = None,
    *,
    kind: str = "ec",
    ca: bool = True,
    since: timedelta = DAY,
    life: timedelta = 30 * DAY,
) -> Issuer:
    """A certificate that may sign, for `life` from `since` ago on.

    Args:
        issuer: None: it signs itself.
        kind: of its key: `ec`, `rsa`, `weak`.
        ca: False: it may not sign after all.
    """
    key: Any = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    if kind == "weak":
        key = rsa.generate_private_key(65537, 1024)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Istio"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - since)
        .not_valid_after(now - since + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=ca, crl_sign=ca, **usage),
            critical=True,
        )
    )
    if issuer is not None:
        own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
    return Issuer(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def write(folder: Path, signs: Issuer, *chain: Issuer, roots: tuple[Issuer, ...], revoked: bytes = b"") -> Path:
    """The files of an authority; `chain` as Istio writes it, the signing one and the root in it."""
    folder.mkdir(exist_ok=True)
    (folder / "ca-key.pem").write_bytes(signs.key_pem)
    (folder / "ca-key.pem").chmod(0o600)
    (folder / "ca-cert.pem").write_bytes(signs.pem)
    (folder / "cert-chain.pem").write_bytes(b"".join(one.pem for one in (signs, *chain, roots[0])))
    (folder / "root-cert.pem").write_bytes(b"".join(one.pem for one in roots))
    if revoked:
        (folder / "ca-crl.pem").write_bytes(revoked)
    return folder
