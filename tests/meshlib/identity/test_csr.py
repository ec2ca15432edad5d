from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshlib.identity.csr import new_request


def test_a_request_is_signed_by_its_own_new_key() -> None:
    """P-256, a valid signature, and a key that no other request has."""
    first, second = new_request(), new_request()
    request = x509.load_pem_x509_csr(first.pem.encode())
    key = serialization.load_pem_private_key(first.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert first.key_pem != second.key_pem


def test_the_asked_identity_is_a_uri() -> None:
    """A SPIFFE id goes into the request as its only SAN; without one there is none."""
    asked = x509.load_pem_x509_csr(new_request("spiffe://cluster.local/ns/a/sa/b").pem.encode())
    names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://cluster.local/ns/a/sa/b"]
    assert len(x509.load_pem_x509_csr(new_request().pem.encode()).extensions) == 0


def test_the_key_is_not_shown() -> None:
    """A log of the request does not hold the key."""
    assert "PRIVATE" not in repr(new_request())
