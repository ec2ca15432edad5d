"""JSON Web Keys that check signatures (RFC 7517, 7518, 8037), read once and kept as keys, not as text.

Rule 1: the key says which algorithms it can be used with, the token only picks one of them. So `none` is nobody's algorithm,
        and an RSA key in the hands of an attacker is no secret of HS256.
Rule 2: a key that cannot be used is passed over, as by Envoy: one strange key among others must not lock everybody out.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from meshlib.identity.base64url import decoded

Verifier = Callable[[bytes, bytes], bool]
"""`(signature, signed bytes) -> whether it fits`."""

_HASHES: Final[Mapping[str, Callable[[], hashes.HashAlgorithm]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: Final[Mapping[str, tuple[str, Callable[[], ec.EllipticCurve]]]] = {
    "ES256": ("P-256", ec.SECP256R1),
    "ES384": ("P-384", ec.SECP384R1),
    "ES512": ("P-521", ec.SECP521R1),
}
_ED25519_SIGNATURE = 64  # bytes
_RSA_EXPONENTS = frozenset({3, 65537})  # Envoy: anything else is no standard key
_RSA_BITS = range(1024, 16384 + 1)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that signatures are checked with.

    Args:
        verifiers: by algorithm; an algorithm that is not here cannot be used with this key.
        kid: its name, maybe empty.
        algorithm: the only one it is meant for; empty: the key does not say.
        signature_length: bytes of its signatures where Envoy looks at that first; 0: it does not.
    """

    verifiers: Mapping[str, Verifier]
    kid: str = ""
    algorithm: str = ""
    signature_length: int = 0

    def meant(self, kid: str, algorithm: str) -> bool:
        """Whether a token with this header may be signed with it. Envoy: who does not name a key tries all."""
        return (not kid or not self.kid or kid == self.kid) and self.algorithm in ("", algorithm)


def read_keys(text: str) -> tuple[Key, ...]:
    """The usable keys of a key set; empty if the text is none."""
    try:
        found = json.loads(text)
        listed = found["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()
    keys = [_key(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return tuple(key for key in keys if key is not None)


def _key(members: Mapping[str, Any]) -> Key | None:
    """The key, None if it is not one that we can use."""
    kid, algorithm = (_text(members.get(name)) for name in ("kid", "alg"))
    try:
        verifiers = _FAMILIES[members["kty"]](members, algorithm)
    except (KeyError, TypeError, ValueError):
        return None
    length = _ED25519_SIGNATURE if "EdDSA" in verifiers else 0
    return Key(verifiers, kid, algorithm, length)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bytes(members: Mapping[str, Any], name: str) -> bytes:
    _require(isinstance(members[name], str))
    return decoded(members[name])


def _number(members: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(members, name), "big")


def _require(good: bool) -> None:
    if not good:
        raise ValueError


def _rsa(members: Mapping[str, Any], algorithm: str) -> dict[str, Verifier]:
    _require(not algorithm or algorithm.startswith(("RS", "PS")))
    modulus, exponent = _number(members, "n"), _number(members, "e")
    _require(exponent in _RSA_EXPONENTS and modulus % 2 == 1 and modulus.bit_length() in _RSA_BITS)
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    verifiers: dict[str, Verifier] = {}
    for bits, digest in _HASHES.items():
        salted = padding.PSS(padding.MGF1(digest()), padding.PSS.DIGEST_LENGTH)
        verifiers[f"RS{bits}"] = partial(_fits, partial(key.verify, padding=padding.PKCS1v15(), algorithm=digest()))
        verifiers[f"PS{bits}"] = partial(_fits, partial(key.verify, padding=salted, algorithm=digest()))
    return verifiers


def _elliptic(members: Mapping[str, Any], algorithm: str) -> dict[str, Verifier]:
    _require(not algorithm or algorithm in _CURVES)
    named = members.get("crv") or (_CURVES[algorithm][0] if algorithm else "P-256")  # Envoy: P-256 if nobody says
    name, curve = {own: (name, curve) for name, (own, curve) in _CURVES.items()}[named]
    _require(algorithm in ("", name))
    key = ec.EllipticCurvePublicNumbers(_number(members, "x"), _number(members, "y"), curve()).public_key()
    return {name: partial(_fits_curve, key, ec.ECDSA(_HASHES[name[2:]]()))}


def _edwards(members: Mapping[str, Any], algorithm: str) -> dict[str, Verifier]:
    _require(algorithm in ("", "EdDSA") and members["crv"] == "Ed25519")
    return {"EdDSA": partial(_fits, ed25519.Ed25519PublicKey.from_public_bytes(_bytes(members, "x")).verify)}


def _secret(members: Mapping[str, Any], algorithm: str) -> dict[str, Verifier]:
    key = _bytes(members, "k")
    _require(bool(key) and algorithm in ("", *(f"HS{bits}" for bits in _HASHES)))
    return {f"HS{bits}": partial(_fits_secret, key, f"sha{bits}") for bits in _HASHES}


def _fits(verify: Callable[[bytes, bytes], None], signature: bytes, signed: bytes) -> bool:
    try:
        verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _fits_curve(key: ec.EllipticCurvePublicKey, how: ec.ECDSA, signature: bytes, signed: bytes) -> bool:
    """RFC 7518 3.4: the signature is both numbers, each as long as the curve's field."""
    half = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * half:
        return False
    pair = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    return _fits(partial(key.verify, signature_algorithm=how), pair, signed)


def _fits_secret(key: bytes, digest: str, signature: bytes, signed: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(key, signed, digest), signature)


_FAMILIES: Final[Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Verifier]]]] = {
    "RSA": _rsa,
    "EC": _elliptic,
    "OKP": _edwards,
    "oct": _secret,
}
