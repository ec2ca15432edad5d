"""What others are told of a proved token: the claims for later filters, headers for the application."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshlib.config.jwt import JwtProvider
from meshlib.facts import Headers
from meshlib.identity.jwt import Jwt

_UNSIGNED = 2**64


@dataclass(frozen=True, slots=True)
class Proved:
    """A token that one of the provider's keys signed.

    Args:
        claims: as policy reads them.
        headers: for the application.
        not_before, expires: seconds since the epoch, 0: no limit.
    """

    claims: Mapping[str, Any]
    headers: Headers
    not_before: int
    expires: int


def proved(token: Jwt, provider: JwtProvider) -> Proved:
    """What a provider tells of a token."""
    return Proved(_claims(token, provider), tuple(_headers(token, provider)), token.not_before, token.expires)


def _claims(token: Jwt, provider: JwtProvider) -> Mapping[str, Any]:
    """The claims; words in one text, as in `scope`, are a list, for rules compare each of them."""
    listed = {
        name: words
        for name in provider.space_delimited
        if isinstance(value := token.claims.get(name), str) and (words := [word for word in value.split(" ") if word])
    }
    return {**token.claims, **listed}


def _headers(token: Jwt, provider: JwtProvider) -> Iterator[tuple[str, str]]:
    if provider.payload_header:
        padding = "=" * (-len(token.payload) % 4) if provider.padded_payload else ""
        yield provider.payload_header, token.payload + padding
    for one in provider.claim_headers:
        text = _text(_nested(token.claims, one.claim))
        # An issuer may write what it likes; a header must not end in the middle of it.
        if text and not any(character in text for character in "\r\n\0"):
            yield one.header, text.encode().decode("latin-1")


def _nested(claims: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    found: Any = claims
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _text(value: Any) -> str:
    """A claim as a header's value: objects and lists as JSON in Base64, everything else as Envoy prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _printed(float(value))
    if isinstance(value, dict | list):
        return base64.b64encode(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).decode()
    return value if isinstance(value, str) else ""


def _printed(number: float) -> str:
    """C++'s `to_string`: what is no whole number from 0 to 2^64 has six decimals."""
    return str(int(number)) if 0 <= number < _UNSIGNED and number.is_integer() else f"{number:f}"
