"""Keys and tokens, good ones and every kind of bad one. Written from the RFCs, not with the code under test."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Json = dict[str, Any]
Sign = Callable[[bytes], bytes]

_HASHES: Mapping[str, Callable[[], hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: Mapping[str, tuple[str, Callable[[], ec.EllipticCurve]]] = {
    "ES256": ("P-256", ec.SECP256R1),
    "ES384": ("P-384", ec.SECP384R1),
    "ES512": ("P-521", ec.SECP521R1),
}
_SECRET = b"a secret that both sides know, which is long enough for SHA-512 and its friends"


@dataclass(frozen=True)
class Pair:
    """A private key as what it can sign, and the public one as a JSON Web Key without `kid` and `alg`."""

    public: Json
    sign: Mapping[str, Sign]


def encoded(content: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def token(header: object, payload: object, sign: Sign) -> str:
    """A token of anything that JSON can write, or of bytes as they are."""
    signed = ".".join(encoded(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, payload))
    return f"{signed}.{encoded(sign(signed.encode()))}"


@cache
def pairs() -> Mapping[str, Pair]:
    """A pair of each kind, two of RSA; made once."""
    return {
        "rsa": _rsa(),
        "other-rsa": _rsa(),
        "odd-rsa": _rsa(exponent=17),
        **{f"ec-{name}": _elliptic(name) for name in _CURVES},
        "ed": _edwards(),
        "oct": _secret(),
    }


def _rsa(exponent: int = 65537) -> Pair:
    # cryptography makes no keys with other exponents: this one is only read, never signed with.
    key = rsa.generate_private_key(65537, 2048)
    numbers = key.public_key().public_numbers()
    public = {"kty": "RSA", "n": _number(numbers.n, 256), "e": _number(exponent, 3)}
    sign: dict[str, Sign] = {}
    for bits, digest in _HASHES.items():
        salted = padding.PSS(padding.MGF1(digest()), padding.PSS.DIGEST_LENGTH)
        sign[f"RS{bits}"] = partial(key.sign, padding=padding.PKCS1v15(), algorithm=digest())
        sign[f"PS{bits}"] = partial(key.sign, padding=salted, algorithm=digest())
    return Pair(public, sign)


def _elliptic(name: str) -> Pair:
    curve, make = _CURVES[name]
    key = ec.generate_private_key(make())
    size = (key.key_size + 7) // 8
    numbers = key.public_key().public_numbers()
    public = {"kty": "EC", "crv": curve, "x": _number(numbers.x, size), "y": _number(numbers.y, size)}
    return Pair(public, {name: lambda content: _both_numbers(key.sign(content, ec.ECDSA(_HASHES[name[2:]]())), size)})


def _both_numbers(signature: bytes, size: int) -> bytes:
    first, second = decode_dss_signature(signature)
    return first.to_bytes(size, "big") + second.to_bytes(size, "big")


def _edwards() -> Pair:
    key = ed25519.Ed25519PrivateKey.generate()
    public = {"kty": "OKP", "crv": "Ed25519", "x": encoded(key.public_key().public_bytes_raw())}
    return Pair(public, {"EdDSA": key.sign})


def _secret() -> Pair:
    sign = {f"HS{bits}": partial(hmac.digest, _SECRET, digest=f"sha{bits}") for bits in _HASHES}
    return Pair({"kty": "oct", "k": encoded(_SECRET)}, sign)


def confused(public: Json) -> Sign:
    """Key confusion: HS256 whose secret is the public key that everybody knows."""
    return partial(hmac.digest, json.dumps(public).encode(), digest="sha256")


def _number(value: int, size: int) -> str:
    return encoded(value.to_bytes(size, "big"))
