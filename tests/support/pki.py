"""Certificates made in the test: one authority, leaves with SPIFFE ids, and `ssl` contexts over them."""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ALPN = ["istio-http/1.1", "istio", "http/1.1"]


def spiffe(account: str, namespace: str = "default") -> str:
    """The SPIFFE id of a service account, in Istio's form."""
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


@dataclass(frozen=True)
class Leaf:
    """A certificate with its chain and key, as PEM."""

    chain: bytes
    key: bytes
    spiffe_id: str

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make this the certificate that `context` shows."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "leaf.pem")
            path.write_bytes(self.key + self.chain)
            context.load_cert_chain(path)


class Authority:
    """A root that signs leaves."""

    def __init__(self, name: str = "test root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, [(x509.BasicConstraints(ca=True, path_length=None), True)])

    @property
    def root(self) -> bytes:
        """The root certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, account: str = "reviews", *, uri: str | None = None, names: tuple[x509.GeneralName, ...] = ()) -> Leaf:
        """A P-256 leaf whose URI SAN is the account's SPIFFE id, or `uri`."""
        key = ec.generate_private_key(ec.SECP256R1())
        identity = spiffe(account) if uri is None else uri
        sans = [*([x509.UniformResourceIdentifier(identity)] if identity else []), *names]
        extensions = [(x509.SubjectAlternativeName(sans), True)] if sans else []
        leaf = self._sign(x509.Name([]), key, [*extensions, (x509.BasicConstraints(ca=False, path_length=None), True)])
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Leaf(leaf.public_bytes(serialization.Encoding.PEM), pem, identity)

    def revocations(self, *leaves: Leaf, hours: float = 1.0) -> str:
        """A list of this authority with some leaves, PEM; it is good for some hours, or over if that is negative."""
        now = dt.datetime.now(dt.UTC)
        ends = now + dt.timedelta(hours=hours)
        builder = x509.CertificateRevocationListBuilder(self._name, min(now, ends) - dt.timedelta(hours=1), ends)
        for leaf in leaves:
            number = x509.load_pem_x509_certificate(leaf.chain).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(number, now - dt.timedelta(minutes=1)).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def server_context(self, leaf: Leaf, *, require_client: bool = True) -> ssl.SSLContext:
        """A context as a meshed server has: it shows `leaf` and asks the client for a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_NONE
        return self._trusting(context, leaf)

    def client_context(self, leaf: Leaf) -> ssl.SSLContext:
        """A context as a meshed client has: the chain is verified, the name is not."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return self._trusting(context, leaf)

    def _trusting(self, context: ssl.SSLContext, leaf: Leaf) -> ssl.SSLContext:
        context.load_verify_locations(cadata=self.root.decode())
        context.set_alpn_protocols(ALPN)
        leaf.load_into(context)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())
