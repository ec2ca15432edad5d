"""A user's token (JWT, RFC 7519): read, then proved with somebody's keys. What was not proved says nothing.

What is refused is told in Envoy's words, for they are the body of its answer. Reading is stricter than Envoy's in one thing:
JSON is JSON (RFC 8259). Envoy's parser also takes single quotes, bare names and trailing commas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from meshlib.errors import IdentityError
from meshlib.identity.base64url import decoded
from meshlib.identity.jwk import Key

CLOCK_SKEW = 60  # seconds, Envoy's default
DEEPEST = 100  # brackets within each other; protobuf's limit
_LARGEST = 2**64  # times beyond have no meaning, as for Envoy


class JwtProblem(Enum):
    """What is wrong with a token, in Envoy's words."""

    MISSING = "Jwt is missing"
    NOT_YET_VALID = "Jwt not yet valid"
    EXPIRED = "Jwt is expired"
    BAD_FORMAT = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    HEADER_BAD_BASE64 = "Jwt header is an invalid Base64url encoded"
    HEADER_BAD_JSON = "Jwt header is an invalid JSON"
    HEADER_BAD_ALG = "Jwt header [alg] field is required and must be a string"
    HEADER_UNKNOWN_ALG = "Jwt header [alg] is not supported"
    HEADER_BAD_KID = "Jwt header [kid] field is not a string"
    PAYLOAD_BAD_BASE64 = "Jwt payload is an invalid Base64url encoded"
    PAYLOAD_BAD_JSON = "Jwt payload is an invalid JSON"
    ISS_NO_STRING = "Jwt payload [iss] field is not a string"
    SUB_NO_STRING = "Jwt payload [sub] field is not a string"
    JTI_NO_STRING = "Jwt payload [jti] field is not a string"
    IAT_NO_NUMBER = "Jwt payload [iat] field is not an integer"
    IAT_OUT_OF_RANGE = "Jwt payload [iat] field is not a positive 64 bit integer"
    NBF_NO_NUMBER = "Jwt payload [nbf] field is not an integer"
    NBF_OUT_OF_RANGE = "Jwt payload [nbf] field is not a positive 64 bit integer"
    EXP_NO_NUMBER = "Jwt payload [exp] field is not an integer"
    EXP_OUT_OF_RANGE = "Jwt payload [exp] field is not a positive 64 bit integer"
    AUD_NO_STRINGS = "Jwt payload [aud] field is not a string or string list"
    SIGNATURE_BAD_BASE64 = "Jwt signature is an invalid Base64url encoded"
    SIGNATURE_BAD_LENGTH = "Jwt ED25519 signature is wrong length"
    UNKNOWN_ISSUER = "Jwt issuer is not configured"
    AUDIENCE_NOT_ALLOWED = "Audiences in Jwt are not allowed"
    NOT_SIGNED = "Jwt verification fails"
    NO_KEY_MATCHES = "Jwks doesn't have key to match kid or alg from Jwt"
    NO_VALID_KEYS = "Jwks doesn't have any valid public key"


class JwtRefused(IdentityError):
    """A token that proves nothing.

    Args:
        problem: why.
    """

    def __init__(self, problem: JwtProblem) -> None:
        super().__init__(problem.value)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Jwt:
    """A token as it was read; nothing in it is proved.

    Args:
        claims: plain JSON values.
        not_before, expires: seconds since the epoch; 0: no limit (Envoy).
        payload: its middle part as written, for servers behind.
        signed: the bytes that the signature is for.
    """

    algorithm: str
    kid: str
    claims: Mapping[str, Any]
    issuer: str
    audiences: tuple[str, ...]
    not_before: int
    expires: int
    payload: str
    signed: bytes
    signature: bytes


ALGORITHMS: Final = frozenset(
    {*(f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)), "EdDSA"}
)


def read(token: str) -> Jwt:
    """A token's content, unproved.

    Args:
        token: three parts and two dots.

    Raises:
        JwtRefused: it is no token; `problem` is the first thing that is wrong, in Envoy's order.
    """
    parts = [part for part in token.split(".") if part]  # Envoy passes over empty ones
    if len(parts) != 3:
        raise JwtRefused(JwtProblem.BAD_FORMAT)
    header, payload, signature = parts
    algorithm, kid = _header(header)
    claims = _part(payload, JwtProblem.PAYLOAD_BAD_BASE64, JwtProblem.PAYLOAD_BAD_JSON)
    issuer = _text(claims, "iss", JwtProblem.ISS_NO_STRING)
    _text(claims, "sub", JwtProblem.SUB_NO_STRING)
    _time(claims, "iat", JwtProblem.IAT_NO_NUMBER, JwtProblem.IAT_OUT_OF_RANGE)
    not_before = _time(claims, "nbf", JwtProblem.NBF_NO_NUMBER, JwtProblem.NBF_OUT_OF_RANGE)
    expires = _time(claims, "exp", JwtProblem.EXP_NO_NUMBER, JwtProblem.EXP_OUT_OF_RANGE)
    _text(claims, "jti", JwtProblem.JTI_NO_STRING)
    return Jwt(
        algorithm=algorithm,
        kid=kid,
        claims=claims,
        issuer=issuer,
        audiences=_audiences(claims),
        not_before=not_before,
        expires=expires,
        payload=payload,
        signed=f"{header}.{payload}".encode(),
        signature=_bytes(signature, JwtProblem.SIGNATURE_BAD_BASE64),
    )


def check_time(not_before: int, expires: int, now: float, skew: int = CLOCK_SKEW) -> None:
    """Whether a token holds at a moment.

    Args:
        now: seconds since the epoch; parts of a second do not count, as for Envoy.
        skew: seconds by which clocks may differ.

    Raises:
        JwtRefused: it does not hold yet, or no more.
    """
    if int(now) + skew < not_before:
        raise JwtRefused(JwtProblem.NOT_YET_VALID)
    if expires and int(now) > expires + skew:
        raise JwtRefused(JwtProblem.EXPIRED)


def check_audiences(token: Jwt, accepted: frozenset[str]) -> None:
    """Whether a token is for one of these.

    Args:
        accepted: written as `audience` writes them; empty: it may be for anybody.

    Raises:
        JwtRefused: it is for others.
    """
    if accepted and accepted.isdisjoint(map(audience, token.audiences)):
        raise JwtRefused(JwtProblem.AUDIENCE_NOT_ALLOWED)


def audience(text: str) -> str:
    """An audience as it is compared. Envoy: without `http://` or `https://` and without a slash at the end."""
    scheme = next((scheme for scheme in ("http://", "https://") if text.startswith(scheme)), "")
    return text[len(scheme) :].removesuffix("/")


def check_signature(token: Jwt, keys: Sequence[Key]) -> None:
    """Whether one of these keys signed it.

    Raises:
        JwtRefused: none did, or none is meant for such tokens.
    """
    if not keys:
        raise JwtRefused(JwtProblem.NO_VALID_KEYS)
    meant = [key for key in keys if key.meant(token.kid, token.algorithm)]
    for key in meant:
        if key.signature_length and len(token.signature) != key.signature_length:
            raise JwtRefused(JwtProblem.SIGNATURE_BAD_LENGTH)
        verifier = key.verifiers.get(token.algorithm)
        if verifier is not None and verifier(token.signature, token.signed):
            return
    raise JwtRefused(JwtProblem.NOT_SIGNED if meant else JwtProblem.NO_KEY_MATCHES)


def _header(written: str) -> tuple[str, str]:
    header = _part(written, JwtProblem.HEADER_BAD_BASE64, JwtProblem.HEADER_BAD_JSON)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise JwtRefused(JwtProblem.HEADER_BAD_ALG)
    if algorithm not in ALGORITHMS:
        raise JwtRefused(JwtProblem.HEADER_UNKNOWN_ALG)
    return algorithm, _text(header, "kid", JwtProblem.HEADER_BAD_KID)


def _part(written: str, bad_base64: JwtProblem, bad_json: JwtProblem) -> dict[str, Any]:
    text = _bytes(written, bad_base64)
    try:
        return _object(text)
    except (ValueError, RecursionError) as error:
        raise JwtRefused(bad_json) from error


def _bytes(written: str, problem: JwtProblem) -> bytes:
    try:
        return decoded(written)
    except ValueError as error:
        raise JwtRefused(problem) from error


def _text(claims: Mapping[str, Any], name: str, problem: JwtProblem) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise JwtRefused(problem)
    return value


def _time(claims: Mapping[str, Any], name: str, no_number: JwtProblem, out_of_range: JwtProblem) -> int:
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JwtRefused(no_number)
    if not 0 <= value < _LARGEST:
        raise JwtRefused(out_of_range)
    return int(value)


def _audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    written = claims.get("aud", [])
    values = [written] if isinstance(written, str) else written
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise JwtRefused(JwtProblem.AUD_NO_STRINGS)
    return tuple(values)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object that everybody reads alike: no name twice, no NaN, no half of a surrogate pair, not too deep."""
    found = json.loads(
        text.decode(), object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
    )
    if not isinstance(found, dict):
        raise ValueError("no object")
    if b"\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    if text.count(b"[") + text.count(b"{") > DEEPEST and _depth(found) > DEEPEST:
        raise ValueError("too deep")
    return found


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name is there twice")
    return found


def _whole(text: str) -> int | float:
    return int(text) if len(text) < 20 else _finite(text)  # Envoy knows floating point only


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError("too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
