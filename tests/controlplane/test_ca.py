"""The certificate authority: what a certificate says, what is refused, what survives a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from meshlib_control.ca import CertificateAuthority, open_authority
from meshlib_control.ca_request import RequestRejected

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
REVIEWS = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return open_authority(tmp_path, NOW)


def signing_request(key: object = None, names: tuple[str, ...] = (), subject: str = "") -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(item) for item in names]), critical=False
        )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def leaf_of(chain: list[str]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain[0].encode())


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_the_name_comes_from_the_credential_and_the_wishes_of_the_request_are_ignored(authority):
    """The CSR asks for an administrator's name in subject and SAN; the certificate has the caller's only."""
    wish = signing_request(names=("spiffe://cluster.local/ns/istio-system/sa/admin",), subject="admin")
    leaf = leaf_of(authority.issue(wish, REVIEWS, DAY, NOW))
    assert uris(leaf) == [REVIEWS]
    assert list(leaf.subject) == []


def test_the_san_is_critical_because_the_subject_is_empty(authority):
    """RFC 5280 4.2.1.6."""
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, DAY, NOW))
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_a_leaf_is_signed_by_the_root_which_comes_last(authority):
    """Istio's CreateCertificate answers leaf first, root last."""
    chain = authority.issue(signing_request(), REVIEWS, DAY, NOW)
    root = x509.load_pem_x509_certificate(chain[-1].encode())
    leaf_of(chain).verify_directly_issued_by(root)
    assert root == authority.certificate


def test_a_leaf_can_sign_no_certificates(authority):
    """A service's certificate is no authority."""
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, DAY, NOW))
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(0), timedelta(hours=24)),
        (timedelta(seconds=-5), timedelta(hours=24)),
        (timedelta(days=9000), timedelta(days=90)),
        (timedelta(seconds=3), timedelta(seconds=3)),
    ],
)
def test_the_lifetime_is_what_was_asked_for_within_bounds(authority, asked, given):
    """Nothing asked: a day. Never more than 90 days."""
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, asked, NOW))
    assert leaf.not_valid_after_utc == NOW + given


def test_a_certificate_is_backdated_by_two_minutes(authority):
    """A peer whose clock is a minute behind accepts it."""
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, DAY, NOW))
    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=2)


def test_a_short_life_lies_mostly_in_the_future(authority):
    """Half of the life of a certificate of ten seconds has not passed at its birth."""
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, timedelta(seconds=10), NOW))
    middle = leaf.not_valid_before_utc + (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / 2
    assert middle > NOW + timedelta(seconds=3)


def test_a_leaf_never_outlives_the_root(authority):
    """At the end of the root's ten years the leaf ends with it."""
    late = authority.certificate.not_valid_after_utc - timedelta(hours=1)
    leaf = leaf_of(authority.issue(signing_request(), REVIEWS, DAY, late))
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA-2048"),
    ],
)
def test_usual_keys_are_accepted(authority, key):
    """The kinds of key that Istio's agents make."""
    leaf = leaf_of(authority.issue(signing_request(key), REVIEWS, DAY, NOW))
    assert leaf.public_key() == key.public_key()


@pytest.mark.parametrize(
    ("key", "named"),
    [
        pytest.param(rsa.generate_private_key(65537, 1024), "RSA with 1024 bits", id="RSA-1024"),
        pytest.param(ec.generate_private_key(ec.SECP192R1()), "secp192r1", id="P-192"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), "secp256k1", id="secp256k1"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), "Ed25519", id="Ed25519"),
    ],
)
def test_weak_and_unknown_keys_are_refused_by_name(authority, key, named):
    """The answer says what was seen and what to use."""
    with pytest.raises(RequestRejected, match=named) as refused:
        authority.issue(signing_request(key), REVIEWS, DAY, NOW)
    assert "P-256" in str(refused.value)


def test_a_request_signed_by_another_key_is_refused(authority):
    """Who does not hold the private key gets no certificate for it."""
    der = bytearray(x509.load_pem_x509_csr(signing_request().encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(RequestRejected, match="not signed by the key"):
        authority.issue(forged, REVIEWS, DAY, NOW)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "\ud800", "x" * 100_000],
)
def test_broken_requests_are_refused(authority, text):
    """No input makes anything but a refusal."""
    with pytest.raises(RequestRejected, match="signing request"):
        authority.issue(text, REVIEWS, DAY, NOW)


def test_the_servers_certificate_names_loopback_and_the_given_hosts(authority):
    """A client may come by name or by address."""
    server = authority.server_certificate(["mesh.example", "10.0.0.7"], NOW)
    leaf = x509.load_pem_x509_certificate(server.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "mesh.example"]
    assert [str(item) for item in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.7"]
    leaf.verify_directly_issued_by(authority.certificate)
