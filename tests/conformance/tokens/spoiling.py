"""Tokens with something wrong, each nearly right otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.conformance.tokens import forge

Json = dict[str, Any]

ALGORITHMS = ("none", "None", "NONE", "", "HS256", "RS256", "ES256", "PS256", "EdDSA", "rs256", "ES256K", "RS1", "HS1024")
_KIDS = ("one", "two", "three", "")
_TIMED = ("iss", "sub", "iat", "nbf", "exp", "jti", "aud", "scope")
_WRONG: tuple[Any, ...] = (
    5,
    None,
    True,
    "x",
    [],
    ["a", 5],
    {},
    -1,
    1.5,
    2**64,
    2**64 - 1,
    1e300,
    0,
    "",
    [[]],
    "iss-a",
    "iss-b/",
)
_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "01", "1.", ".5", "+1", "-0", "1E5", "0x10", "tru", "-", "1" * 400)
_STRINGS = (r'"\ud800"', r'"\udc00x"', r'"\ud83d\ude00"', r'"\u0000"', '"\x01"', r'"\x"', r'"\u12"', "'a'", '"\t"')
_DEPTHS = (90, 98, 99, 100, 101, 3000)

JSON, ALGORITHM, LENGTH = "json", "algorithm", "length"
"""What Envoy is not strict about."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A token that is not written yet."""

    header: Json
    claims: Json
    algorithm: str
    pair: forge.Pair

    def sign(self, content: bytes) -> bytes:
        """The pair's signature."""
        return self.pair.sign[self.algorithm](content)

    @property
    def text(self) -> str:
        """As it should be."""
        return forge.token(self.header, self.claims, self.sign)


def spoiled(chance: Random, draft: Draft) -> tuple[str, str]:
    """A token, and what Envoy is not strict about in it; empty: nothing."""
    return chance.choice((_header, _claims, _json, _text, _signature))(chance, draft)


def _header(chance: Random, draft: Draft) -> tuple[str, str]:
    if chance.random() < 0.3:
        return forge.token({**draft.header, "alg": "HS256"}, draft.claims, forge.confused(draft.pair.public)), ALGORITHM
    changes: tuple[Json, ...] = (
        {"alg": chance.choice(ALGORITHMS)},
        {"alg": chance.choice((5, None, ["RS256"]))},
        {"kid": chance.choice(_KIDS)},
        {"kid": chance.choice((5, None))},
        {"crit": ["exp"]},
        {"jwk": draft.pair.public},
    )
    changed = chance.choice(changes)
    return forge.token({**draft.header, **changed}, draft.claims, draft.sign), ALGORITHM if "alg" in changed else ""


def _claims(chance: Random, draft: Draft) -> tuple[str, str]:
    changed = {**draft.claims, chance.choice(_TIMED): chance.choice(_WRONG)}
    return forge.token(draft.header, changed, draft.sign), ""


def _json(chance: Random, draft: Draft) -> tuple[str, str]:
    whole = json.dumps(draft.claims)
    inside = whole[1:-1]
    depth = chance.choice(_DEPTHS)
    values = (chance.choice(_NUMBERS), chance.choice(_STRINGS), "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)
    texts = (
        *(f'{{{inside},"z":{value}}}' for value in values),
        *(f"{{{inside},{member}}}" for member in ('"iss":"iss-a"', '"":1', "'z':1", "z:1", "")),
        *(f"[{whole}]", "5", "null", '"x"', "", "{", whole + "x", f" {whole}\n", f"\ufeff{whole}", f"{whole} // x"),
    )
    written = chance.choice(texts).encode()
    odd = (written, written, written, whole.encode("utf-16"), whole.encode()[:-1] + b',"z":"\xff"}')
    return forge.token(draft.header, chance.choice(odd), draft.sign), JSON


def _text(chance: Random, draft: Draft) -> tuple[str, str]:
    text = draft.text
    first, second, third = text.split(".")
    if chance.random() < 0.2:
        at = chance.randrange(len(text))
        # A changed character may be one in JSON that JSON does not know.
        return text[:at] + chance.choice(("", *"ABab01-_+/=. ~%\xe9")) + text[at + 1 :], JSON
    odd = (
        *("deadbeef", "..", ".", "", "a.b.c", "e30.e30.e30", "x" * 5000, text * 2),
        *(f"{first}.{second}", f"{first}.{second}.", f"{first}..{second}.{third}", f".{text}", f"{text}.", f"{text}.x"),
        *(f"{first}=.{second}.{third}", f"{first}.{second}==.{third}", f"{text}=", f"{text}==", f"{first}.{second} .{third}"),
        *(f"{text} ", text.replace("-", "+").replace("_", "/"), ".".join(map(_padded, (first, second, third)))),
        f"{first}.{second}.{third[:-1]}{chance.choice('ABCDEFGHwxyz0123')}",
    )
    return chance.choice(odd), ""


def _padded(part: str) -> str:
    return part + "=" * (-len(part) % 4)


def _signature(chance: Random, draft: Draft) -> tuple[str, str]:
    if chance.random() < 0.3:
        other = forge.pairs()["other-rsa"]
        return forge.token({**draft.header, "alg": "RS256"}, draft.claims, other.sign["RS256"]), ""

    def odd(content: bytes) -> bytes:
        good = draft.sign(content)
        wrong = (b"", good[:-1], good + b"\0", b"\0" + good, bytes(len(good)), good[::-1], draft.sign(content + b"x"))
        return chance.choice(wrong)

    return forge.token(draft.header, draft.claims, odd), LENGTH if draft.algorithm.startswith("ES") else ""
