"""What a certificate signing request is good for: its public key, if that is a strong one and the request is signed by it."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from meshlib.errors import MeshError
from meshlib.identity.leaf import UNREADABLE

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RSA_BITS = range(2048, 8193)  # above, one signature check costs a core too long
_REQUEST_BYTES = 32 * 1024


class RequestRejected(MeshError):
    """The certificate signing request is broken or its key too weak; the text says which."""


def requested_key(request_pem: str) -> PublicKeyTypes:
    """The key that a request asks a certificate for. Its wishes for names and uses are not looked at.

    Args:
        request_pem: PKCS #10, PEM.

    Raises:
        RequestRejected: it is broken, not signed by its key, or the key is weak.
    """
    if len(request_pem) > _REQUEST_BYTES:
        raise RequestRejected(f"the signing request has {len(request_pem)} bytes, at most {_REQUEST_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except (*UNREADABLE, TypeError, InvalidSignature) as error:
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
