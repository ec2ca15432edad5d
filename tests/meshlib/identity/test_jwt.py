"""Tokens of users: what they say, who signed them, when they hold."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from meshlib.identity.base64url import decoded
from meshlib.identity.jwk import Key, read_keys
from meshlib.identity.jwt import JwtProblem, JwtRefused, audience, check_audiences, check_signature, check_time, read
from tests.conformance.tokens import forge
from tests.support.worlds import CONFORMANCE, conformance_data

CLAIMS = {"iss": "issuer", "sub": "joe"}
PAIRS = forge.pairs()


def keys_of(*names: str, **members: str) -> tuple[Key, ...]:
    """The public keys of these pairs, as a provider would read them."""
    return read_keys(json.dumps({"keys": [{**PAIRS[name].public, **members} for name in names]}))


def signed(name: str, algorithm: str, header: dict[str, Any] | None = None, claims: object = CLAIMS) -> str:
    """A token of a pair."""
    return forge.token({"alg": algorithm, **(header or {})}, claims, PAIRS[name].sign[algorithm])


def refused(token: str, keys: tuple[Key, ...]) -> JwtProblem | None:
    """Why a token proves nothing; None: it does."""
    try:
        check_signature(read(token), keys)
    except JwtRefused as problem:
        return problem.problem
    return None


FAMILIES = [(name, algorithm) for name, pair in PAIRS.items() if name != "odd-rsa" for algorithm in pair.sign]


@pytest.mark.parametrize(("name", "algorithm"), FAMILIES)
def test_every_family_proves_its_tokens_and_no_others(name: str, algorithm: str) -> None:
    """RS, PS, ES, EdDSA and HS; another pair's key proves nothing."""
    token = signed(name, algorithm)
    assert refused(token, keys_of(name)) is None
    first, second, third = token.split(".")
    assert (
        refused(f"{first}.{forge.encoded(json.dumps({**CLAIMS, 'sub': 'eve'}).encode())}.{third}", keys_of(name)) is not None
    )
    assert refused(token, keys_of("other-rsa" if name == "rsa" else "rsa")) is not None
    assert refused(f"{first}.{second}.{forge.encoded(b'x' * 64)}", keys_of(name)) is not None


def test_istios_own_sample_tokens_are_proved_by_its_sample_keys() -> None:
    """demo.jwt and groups-scope.jwt."""
    folder = conformance_data(CONFORMANCE / "istio" / "security" / "tools" / "jwt" / "samples")
    keys = read_keys((folder / "jwks.json").read_text())
    for name in ("demo.jwt", "groups-scope.jwt"):
        assert refused((folder / name).read_text().strip(), keys) is None


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "oct"])
def test_a_public_key_is_nobodys_secret(name: str) -> None:
    """Key confusion: HS256 with the text of the public key."""
    token = forge.token({"alg": "HS256"}, CLAIMS, forge.confused(PAIRS[name].public))
    assert refused(token, keys_of(name, "rsa")) is not None


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "ES256K", "HS1", "RSA-OAEP"])
def test_what_is_no_algorithm_signs_nothing(algorithm: str) -> None:
    """`none` least of all, with a signature and without one."""
    keys = keys_of(*PAIRS)
    token = forge.token({"alg": algorithm}, CLAIMS, lambda _: b"x")
    assert refused(token, keys) is JwtProblem.HEADER_UNKNOWN_ALG
    assert refused(token.rpartition(".")[0] + ".", keys) is JwtProblem.BAD_FORMAT


def test_the_algorithm_is_one_of_the_keys_family() -> None:
    """Envoy checks any algorithm's name against an EC key with SHA-256; RFC 7518 binds names to keys."""
    token = forge.token({"alg": "RS256"}, CLAIMS, PAIRS["ec-ES256"].sign["ES256"])
    assert refused(token, keys_of("ec-ES256")) is JwtProblem.NOT_SIGNED


def test_a_key_that_is_meant_for_one_algorithm_is_used_for_no_other() -> None:
    """`alg` of the key."""
    keys = keys_of("rsa", alg="PS256")
    assert refused(signed("rsa", "PS256"), keys) is None
    assert refused(signed("rsa", "RS256"), keys) is JwtProblem.NO_KEY_MATCHES


def test_a_token_that_names_a_key_is_checked_with_that_one() -> None:
    """Envoy: a key or a token without a name fits all."""
    keys = (*keys_of("other-rsa", kid="one"), *keys_of("rsa", kid="two"))
    assert refused(signed("rsa", "RS256", {"kid": "two"}), keys) is None
    assert refused(signed("rsa", "RS256", {"kid": "one"}), keys) is JwtProblem.NOT_SIGNED
    assert refused(signed("rsa", "RS256", {"kid": "three"}), keys) is JwtProblem.NO_KEY_MATCHES
    assert refused(signed("rsa", "RS256"), keys) is None
    assert refused(signed("rsa", "RS256", {"kid": "one"}), keys_of("rsa")) is None


@pytest.mark.parametrize(
    "key",
    [
        *({}, {"kty": "XX"}, {"kty": 5}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "oct", "k": ""}),
        *({"kty": "oct", "k": 5}, {"kty": "OKP", "crv": "X25519", "x": forge.encoded(b"x" * 32)}),
        {"kty": "OKP", "crv": "Ed25519", "x": forge.encoded(b"x" * 31)},
        {**PAIRS["ec-ES256"].public, "y": PAIRS["ec-ES256"].public["x"]},
        {**PAIRS["ec-ES256"].public, "alg": "ES384"},
        {**PAIRS["ec-ES256"].public, "crv": "secp256k1"},
        {**PAIRS["rsa"].public, "alg": "ES256"},
        {**PAIRS["rsa"].public, "n": PAIRS["rsa"].public["n"] + "!"},
        PAIRS["odd-rsa"].public,
    ],
)
def test_a_key_that_cannot_be_used_is_passed_over(key: dict[str, Any]) -> None:
    """The others can still be used; without others nothing can be proved."""
    whole = read_keys(json.dumps({"keys": [key, 5, PAIRS["rsa"].public]}))
    assert refused(signed("rsa", "RS256"), whole) is None
    assert refused(signed("rsa", "RS256"), read_keys(json.dumps({"keys": [key]}))) is JwtProblem.NO_VALID_KEYS


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"keys": 5}', '{"keys": []}', "[" * 100_000])
def test_what_is_no_key_set_has_no_keys(text: str) -> None:
    """Without an error: tokens are refused."""
    assert read_keys(text) == ()


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({**CLAIMS, "iss": 5}, JwtProblem.ISS_NO_STRING),
        ({**CLAIMS, "sub": None}, JwtProblem.SUB_NO_STRING),
        ({**CLAIMS, "jti": 5}, JwtProblem.JTI_NO_STRING),
        ({**CLAIMS, "exp": "tomorrow"}, JwtProblem.EXP_NO_NUMBER),
        ({**CLAIMS, "exp": True}, JwtProblem.EXP_NO_NUMBER),
        ({**CLAIMS, "exp": -1}, JwtProblem.EXP_OUT_OF_RANGE),
        ({**CLAIMS, "nbf": 2**64}, JwtProblem.NBF_OUT_OF_RANGE),
        ({**CLAIMS, "iat": []}, JwtProblem.IAT_NO_NUMBER),
        ({**CLAIMS, "aud": ["a", 5]}, JwtProblem.AUD_NO_STRINGS),
        (b" ", JwtProblem.PAYLOAD_BAD_JSON),
        (b"[]", JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":1,"a":2}', JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":NaN}', JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":1e999}', JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":' + b"1" * 5000 + b"}", JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":"\\ud800"}', JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":"\xff"}', JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", JwtProblem.PAYLOAD_BAD_JSON),
        (b'{"a":' + b"[" * 100_000 + b"}", JwtProblem.PAYLOAD_BAD_JSON),
        (b"{'a':1}", JwtProblem.PAYLOAD_BAD_JSON),
    ],
)
def test_what_is_wrong_with_a_payload_is_told_in_envoys_words(payload: object, problem: JwtProblem) -> None:
    """Each is refused, though it is signed."""
    assert refused(signed("rsa", "RS256", claims=payload), keys_of("rsa")) is problem


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", JwtProblem.BAD_FORMAT),
        ("deadbeef", JwtProblem.BAD_FORMAT),
        ("a.b.c.d", JwtProblem.BAD_FORMAT),
        ("ä.b.c", JwtProblem.HEADER_BAD_BASE64),
        ("a.b.c", JwtProblem.HEADER_BAD_BASE64),
        ("e30.e30.e30", JwtProblem.HEADER_BAD_ALG),
        ("bm8.e30.e30", JwtProblem.HEADER_BAD_JSON),
    ],
)
def test_what_is_no_token_is_told_in_envoys_words(token: str, problem: JwtProblem) -> None:
    """None of them is an error of ours."""
    assert refused(token, keys_of("rsa")) is problem


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (39.9, JwtProblem.NOT_YET_VALID),
        (40.0, None),
        (200.0, None),
        (260.9, None),
        (261.0, JwtProblem.EXPIRED),
    ],
)
def test_clocks_may_differ_by_a_minute(now: float, problem: JwtProblem | None) -> None:
    """From 100 to 200, with 60 s before and after; parts of a second do not count."""
    with contextlib.nullcontext() if problem is None else pytest.raises(JwtRefused, match=problem.value):
        check_time(100, 200, now)


def test_a_token_without_times_holds_for_ever() -> None:
    """Envoy: 0 is no limit."""
    check_time(0, 0, 1e12)


@pytest.mark.parametrize(
    ("accepted", "written", "good"),
    [
        ([], [], True),
        (["a"], [], False),
        (["a"], ["b", "a"], True),
        (["https://a/"], ["a"], True),
        (["a"], ["http://a/"], True),
        (["a"], ["a//"], False),
        (["a"], ["A"], False),
    ],
)
def test_one_audience_must_be_accepted(accepted: list[str], written: list[str], good: bool) -> None:
    """Schemes and a last slash do not count."""
    token = read(signed("rsa", "RS256", claims={**CLAIMS, "aud": written}))
    wanted = frozenset(map(audience, accepted))
    if good:
        check_audiences(token, wanted)
    else:
        with pytest.raises(JwtRefused, match="Audiences in Jwt are not allowed"):
            check_audiences(token, wanted)


@pytest.mark.parametrize("text", ["YQ", "YQ==", "Y Q\t", ""])
def test_base64url_is_read_with_all_padding_or_none(text: str) -> None:
    """Blanks do not count."""
    assert decoded(text) == (b"a" if text else b"")


@pytest.mark.parametrize("text", ["YQ=", "Y", "Y+Q/", "YQ===", "Y=Q", "ÄÄ"])
def test_what_is_no_base64url_is_refused(text: str) -> None:
    """The other alphabet, too."""
    with pytest.raises(ValueError, match="base64"):
        decoded(text)
