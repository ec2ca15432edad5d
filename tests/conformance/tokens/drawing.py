"""Draws RequestAuthentications and requests with tokens: mostly nearly right, for what is all wrong teaches little."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

from tests.conformance.tokens import forge
from tests.conformance.tokens.spoiling import Draft, spoiled

Json = dict[str, Any]
Headers = tuple[tuple[str, str], ...]

ISSUERS = ("iss-a", "iss-b", "https://c.example/")
AUDIENCES = ("aud-a", "https://aud-b.example/", "aud-b.example", "http://aud-c")
KIDS = ("one", "two", "")
HEADERS = ("authorization", "x-jwt", "X-Token", "x_token")
PREFIXES = ("Bearer ", "Bearer", "", "JWT ", "token=")
PARAMETERS = ("access_token", "jwt", "t%k")
COOKIES = ("session", "jwt")
FORGED = "forged"
OUTPUTS = ("x-claim-a", "x-claim-b", "X-Jwt-Payload", "x-jwt")
CLAIMS = (
    *("sub", "n", "half", "minus", "yes", "no", "nothing", "empty", "deep", "list", "groups", "words", "scope", "big", "huge"),
    *("text", "exp", "a.b", "deep.inner", "deep.list", "missing", "deep.missing", "sub.inner"),
)
FACTS: Json = {
    "n": 7,
    "half": 1.5,
    "minus": -3,
    "yes": True,
    "no": False,
    "nothing": None,
    "empty": "",
    "words": "a  b c",
    "iat": 1,
    "list": [1, 2, 3],
    "groups": ["g1", "g2"],
    "a.b": "dotted",
    "big": 2**53 + 1,
    "huge": 1e30,
    "deep": {"inner": "x y", "list": [1, "2", {"three": 3.5}], "more": {"and": None}},
}
UNUSABLE: tuple[Json, ...] = ({"kty": "XX"}, {}, {"kty": "RSA", "n": "AQAB"}, {"kty": "EC", "x": 1}, {"kty": "oct", "k": ""})
TEXTS = ("", "joe", "joe@example.com", "übung", "日本", "a b", "{", '"', "a,b", "%41", "😀")
_URL_SAFE = re.compile(r"[\w.~+/=-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Args:
        headers: names as written.
        odd: what Envoy is not strict about in its tokens.
    """

    method: str
    path: str
    headers: Headers
    odd: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """Rules and requests."""

    rules: tuple[Json, ...]
    requests: tuple[Asked, ...]


def draw_case(chance: Random, requests: int) -> Case:
    """One to three rules, and requests that have something to do with them."""
    rules = tuple(_rule(chance) for _ in range(chance.choice((1, 1, 1, 2, 2, 3))))
    return Case(rules, tuple(_request(chance, rules) for _ in range(requests)))


def _rule(chance: Random) -> Json:
    rule: Json = {"issuer": chance.choice(ISSUERS), "jwks": _key_set(chance)}
    if chance.random() < 0.05:
        rule.pop("issuer")
        rule["jwksUri"] = "http://127.0.0.1:9/never"
        rule.pop("jwks")
    if chance.random() < 0.3:
        rule["audiences"] = chance.sample(AUDIENCES, chance.randint(1, 2))
    if chance.random() < 0.4:
        rule["fromHeaders"] = [
            {"name": chance.choice(HEADERS), "prefix": chance.choice(PREFIXES)} for _ in range(chance.randint(1, 2))
        ]
    if chance.random() < 0.25:
        rule["fromParams"] = chance.sample(PARAMETERS, chance.randint(1, 2))
    if chance.random() < 0.25:
        rule["fromCookies"] = chance.sample(COOKIES, chance.randint(1, 2))
    if chance.random() < 0.4:
        rule["forwardOriginalToken"] = True
    if chance.random() < 0.3:
        rule["outputPayloadToHeader"] = chance.choice(OUTPUTS)
    if chance.random() < 0.6:
        rule["outputClaimToHeaders"] = [
            {"header": chance.choice(OUTPUTS), "claim": chance.choice(CLAIMS)} for _ in range(chance.randint(1, 3))
        ]
    if chance.random() < 0.2:
        rule["spaceDelimitedClaims"] = chance.sample(("words", "text", "groups", "deep.inner"), 2)
    return rule


def _key_set(chance: Random) -> str:
    pairs = forge.pairs()
    keys = [_public(chance, pairs[chance.choice(tuple(pairs))].public) for _ in range(chance.choice((1, 1, 2, 3)))]
    if chance.random() < 0.15:
        keys.insert(0, chance.choice(UNUSABLE))
    return json.dumps({"keys": keys})


def _public(chance: Random, key: Json) -> Json:
    found = dict(key)
    if chance.random() < 0.6:
        found["kid"] = chance.choice(KIDS)
    if chance.random() < 0.3:
        found["alg"] = chance.choice(("RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256", "RSA-OAEP", ""))
    if chance.random() < 0.05:
        found.pop("crv", None)
    if chance.random() < 0.05:
        found["use"] = "enc"
    return found


def _request(chance: Random, rules: tuple[Json, ...]) -> Asked:
    headers: list[tuple[str, str]] = [("x-other", "1")]
    query: list[str] = []
    cookies: list[str] = []
    odd = set[str]()
    for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 2, 2, 3))):
        rule = chance.choice(rules)
        text, oddity = draw_token(chance, rule)
        odd.add(oddity)
        _place(chance, rule, text, headers, query, cookies)
    if chance.random() < 0.3:
        headers.append((chance.choice(OUTPUTS), FORGED))
    for part in ("x=1", "y=%26z%3d1", "empty", "x=2", ""):
        if chance.random() < 0.15:
            query.insert(chance.randint(0, len(query)), part)
    if cookies:
        if chance.random() < 0.3:
            cookies.insert(chance.randint(0, len(cookies)), chance.choice(("a=1", "jwt", " session=x", "", 'b="q"')))
        headers.append(("cookie", chance.choice(("; ", ";", " ; ")).join(cookies)))
    chance.shuffle(headers)
    if chance.random() < 0.04:
        headers += [("Origin", chance.choice(("http://a", ""))), ("Access-Control-Request-Method", "PUT")]
    method = "OPTIONS" if chance.random() < 0.06 else "GET"
    return Asked(
        method, "/path" + (f"?{'&'.join(query)}" if query or chance.random() < 0.1 else ""), tuple(headers), frozenset(odd)
    )


def _place(
    chance: Random, rule: Json, text: str, headers: list[tuple[str, str]], query: list[str], cookies: list[str]
) -> None:
    places: list[tuple[str, Any]] = [("header", one) for one in rule.get("fromHeaders", ())]
    places += [("parameter", one) for one in rule.get("fromParams", ())]
    places += [("cookie", one) for one in rule.get("fromCookies", ())]
    places = places or [("header", {"name": "authorization", "prefix": "Bearer "}), ("parameter", "access_token")]
    if chance.random() < 0.08:
        places = [("header", {"name": chance.choice(HEADERS), "prefix": chance.choice(PREFIXES)})]
    kind, one = chance.choice(places)
    if kind == "header":
        headers.append((one["name"], _value(chance, one.get("prefix", ""), text)))
    elif kind == "parameter":
        name = quote(one, safe="") if "%" in one or chance.random() < 0.2 else one
        quoted = chance.random() < 0.3 or not _URL_SAFE.fullmatch(text)
        query.append(f"{name}={quote(text, safe='', encoding='latin-1') if quoted else text}")
    else:
        cookies.append(f'{one}="{text}"' if chance.random() < 0.2 else f"{one}={text}")


def _value(chance: Random, prefix: str, text: str) -> str:
    if chance.random() < 0.85:
        return prefix + text
    wrong = (
        *(prefix.lower() + text, prefix + "  " + text, text, prefix, "other " + prefix + text, prefix + text + " more"),
        *(prefix + text + ", " + prefix + text, prefix + "?!" + text, prefix + " ?!"),
    )
    return chance.choice(wrong)


def draw_token(chance: Random, rule: Json) -> tuple[str, str]:
    """A token for a rule, and what Envoy is not strict about in it. Most are as they should be."""
    keys = json.loads(rule["jwks"])["keys"] if "jwks" in rule else []
    names = [name for name, pair in forge.pairs().items() if any(_same(pair.public, key) for key in keys)]
    pair = forge.pairs()[chance.choice(names if names and chance.random() < 0.93 else tuple(forge.pairs()))]
    key: Json = next((key for key in keys if _same(pair.public, key)), {})
    algorithm = chance.choice(tuple(pair.sign))
    if key.get("alg") in pair.sign and chance.random() < 0.9:
        algorithm = key["alg"]
    header: Json = {"alg": algorithm, "typ": "JWT"}
    if key.get("kid") and chance.random() < 0.9:
        header["kid"] = key["kid"]
    draft = Draft(header, _claims(chance, rule), algorithm, pair)
    return (draft.text, "") if chance.random() < 0.7 else spoiled(chance, draft)


def _same(public: Json, key: Json) -> bool:
    return any(name in key and key[name] == public.get(name) for name in ("n", "x", "k"))


def _claims(chance: Random, rule: Json) -> Json:
    claims: Json = {"iss": rule.get("issuer", "anybody"), "sub": chance.choice(TEXTS)}
    if "audiences" in rule or chance.random() < 0.2:
        aud = chance.choice(rule.get("audiences", AUDIENCES) if chance.random() < 0.85 else AUDIENCES)
        aud = chance.choice((aud, aud.rstrip("/"), aud + "/", "https://" + aud)) if chance.random() < 0.2 else aud
        claims["aud"] = aud if chance.random() < 0.6 else [aud, "other"]
    if chance.random() < 0.6:
        claims["exp"] = int(time.time()) + chance.choice((3600, 3600, 3600, 3600, -20, -3600, -100))
    if chance.random() < 0.2:
        claims["nbf"] = int(time.time()) + chance.choice((-3600, -10, 20, 3600, 100))
    facts = {**FACTS, "scope": chance.choice(("read write", "", " ", ["read"], 5)), "text": chance.choice(TEXTS)}
    claims.update({name: value for name, value in facts.items() if chance.random() < 0.35})
    return claims
