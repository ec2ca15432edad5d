"""The filter that checks tokens: what it refuses, what it tells, what it leaves of the request."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from meshlib.config.jwt import (
    METADATA,
    AllOf,
    AnyOf,
    ClaimHeader,
    CookieLocation,
    HeaderLocation,
    JwtAuthn,
    JwtProvider,
    ParameterLocation,
    Provided,
)
from meshlib.facts import Peer, Request
from meshlib.inbound import jwt
from meshlib.inbound.jwt import TokenCheck
from meshlib.inbound.visit import Denied, Visit
from tests.conformance.tokens import forge

NOW = 1_000_000.0
PAIR = forge.pairs()["rsa"]
OTHER = forge.pairs()["other-rsa"]
PROVIDER = JwtProvider(
    name="one",
    issuer="iss-one",
    jwks=json.dumps({"keys": [PAIR.public]}),
    locations=(ParameterLocation("access_token"), HeaderLocation("authorization", "Bearer ")),
    metadata_key="payload",
    space_delimited=("permission", "scope"),
)
SECOND = replace(PROVIDER, name="two", issuer="iss-two", jwks=json.dumps({"keys": [OTHER.public]}))


def optional(*providers: JwtProvider) -> JwtAuthn:
    """The filter that Istio makes of rules."""
    each = tuple(Provided(one.name) for one in providers)
    tolerant = tuple(AnyOf((one,), allow_missing=True) for one in each)
    return JwtAuthn(providers, tolerant[0] if len(each) == 1 else AnyOf((*each, AllOf(tolerant))), bypass_preflight=True)


def token(pair: forge.Pair = PAIR, issuer: str = "iss-one", **claims: Any) -> str:
    """A good token."""
    return forge.token({"alg": "RS256"}, {"iss": issuer, "sub": "joe", **claims}, pair.sign["RS256"])


def visit(*headers: tuple[str, str], path: str = "/a", method: str = "GET", now: float = NOW) -> Visit:
    """A request that is here now."""
    return Visit(Request(method, "http", "reviews:9080", path, headers), Peer(), now=now)


def bearer(text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}")


def refusal(check: TokenCheck, arrived: Visit) -> Denied:
    found = check(arrived)
    assert found is not None
    return found


def test_a_good_token_lets_its_claims_in_and_stays_outside() -> None:
    """Later filters read the claims; the application sees the token only if it shall."""
    arrived = visit(("x-a", "1"), bearer(token(groups=["g"])))
    assert TokenCheck(optional(PROVIDER))(arrived) is None
    assert arrived.metadata == {METADATA: {"payload": {"iss": "iss-one", "sub": "joe", "groups": ["g"]}}}
    assert arrived.request.headers == (("x-a", "1"),)
    forwarding = visit(bearer(token()))
    assert TokenCheck(optional(replace(PROVIDER, forward=True)))(forwarding) is None
    assert forwarding.request.headers == (bearer(token()),)


def test_no_token_is_no_bad_token() -> None:
    """Istio: only an AuthorizationPolicy makes one necessary."""
    arrived = visit()
    assert TokenCheck(optional(PROVIDER))(arrived) is None
    assert arrived.metadata == {}


def test_a_token_may_be_demanded() -> None:
    """Envoy's words, without an error: nothing was shown."""
    denied = refusal(TokenCheck(JwtAuthn((PROVIDER,), Provided("one"))), visit())
    assert (denied.status, denied.words) == (401, "Jwt is missing")
    assert denied.headers == (("www-authenticate", 'Bearer realm="http://reviews:9080/a"'),)
    assert denied.detail == "jwt_authn_access_denied{Jwt_is_missing}"


def test_a_bad_token_is_answered_as_envoy_does() -> None:
    """401, the words, and a challenge with at most 256 characters of the path."""
    denied = refusal(TokenCheck(optional(PROVIDER)), visit(bearer("deadbeef"), path="/" + "a" * 300))
    assert (denied.status, denied.words) == (
        401,
        "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    )
    realm = "http://reviews:9080/" + "a" * 255
    assert denied.headers == (("www-authenticate", f'Bearer realm="{realm}", error="invalid_token"'),)


def test_a_token_for_others_is_forbidden() -> None:
    """403, as by Envoy: the client is known, and not meant."""
    provider = replace(PROVIDER, audiences=frozenset({"us"}))
    assert refusal(TokenCheck(optional(provider)), visit(bearer(token(aud="them")))).status == 403
    assert TokenCheck(optional(provider))(visit(bearer(token(aud=["them", "us"])))) is None


def test_an_issuer_that_nobody_named_is_unknown() -> None:
    """Though the key fits."""
    denied = refusal(TokenCheck(optional(PROVIDER)), visit(bearer(token(issuer="iss-two"))))
    assert denied.words == "Jwt issuer is not configured"


def test_all_tokens_must_be_good() -> None:
    """The application may look at another one."""
    check = TokenCheck(optional(PROVIDER))
    both = visit(bearer(token()), path=f"/a?access_token={token(sub='eve')[:-2]}")
    assert refusal(check, both).status == 401
    assert check(visit(bearer(token()), path=f"/a?access_token={token()}")) is None


def test_two_lines_of_authorization_are_one_as_for_envoy() -> None:
    """Which is no token any more."""
    assert refusal(TokenCheck(optional(PROVIDER)), visit(bearer(token()), bearer(token()))).status == 401


@pytest.mark.parametrize(
    ("location", "headers", "path"),
    [
        (HeaderLocation("x-jwt"), (("x-jwt", "{}"),), "/a"),
        (HeaderLocation("x-jwt", "JWT "), (("x-jwt", "JWT {}"),), "/a"),
        (HeaderLocation("x-jwt", "JWT "), (("x-jwt", "the JWT   {}"),), "/a"),
        (ParameterLocation("t k"), (), "/a?b=1&t%20k={}&c=%26"),
        (CookieLocation("session"), (("cookie", 'a=1; session="{}"'),), "/a"),
        (CookieLocation("session"), (("cookie", "a=1"), ("cookie", "session={}; session=x")), "/a"),
    ],
)
def test_a_token_is_found_where_it_shall_be(location: Any, headers: tuple[tuple[str, str], ...], path: str) -> None:
    """Headers with prefixes, parameters with escapes, cookies with quotes."""
    provider = replace(PROVIDER, locations=(location,))
    for good, text in ((True, token()), (False, token()[:-3])):
        written = tuple((name, value.format(text)) for name, value in headers)
        arrived = visit(*written, path=path.format(quote(text)))
        assert (TokenCheck(optional(provider))(arrived) is None) is good


def test_a_parameter_is_taken_away_and_the_others_stay_as_they_are() -> None:
    """Envoy would decode and sort them."""
    arrived = visit(path=f"/a?z=%26&access_token={token()}&b&access%5Ftoken=x&a=+")
    assert TokenCheck(optional(PROVIDER))(arrived) is None
    assert arrived.request.path == "/a?z=%26&b&a=+"
    only = visit(path=f"/a?access_token={token()}")
    assert TokenCheck(optional(PROVIDER))(only) is None
    assert only.request.path == "/a"


def test_claims_become_headers_as_envoy_prints_them() -> None:
    """Texts in UTF-8, numbers, booleans, JSON in Base64; nothing for what is empty, null or not there."""
    names = ("text", "whole", "half", "minus", "yes", "list", "deep.inner", "empty", "null", "missing.inner", "split")
    provider = replace(PROVIDER, claim_headers=tuple(ClaimHeader(f"x-{name}", tuple(name.split("."))) for name in names))
    claims: dict[str, Any] = {"text": "ü", "whole": 7, "half": 1.5, "minus": -3, "yes": True, "list": [1, "ä"]}
    claims |= {"deep": {"inner": "a b"}, "empty": "", "null": None, "split": "a\r\nx-admin: yes"}
    arrived = visit(bearer(token(**claims)))
    assert TokenCheck(optional(provider))(arrived) is None
    assert dict(arrived.request.headers) == {
        "x-text": "Ã¼",
        "x-whole": "7",
        "x-half": "1.500000",
        "x-minus": "-3.000000",
        "x-yes": "true",
        "x-list": base64.b64encode('[1,"ä"]'.encode()).decode(),
        "x-deep.inner": "a b",
    }


def test_the_payload_may_become_a_header() -> None:
    """As it was written, or with padding."""
    middle = token().split(".")[1]
    for padded, written in ((False, middle), (True, middle + "=" * (-len(middle) % 4))):
        arrived = visit(bearer(token()))
        provider = replace(PROVIDER, payload_header="x-payload", padded_payload=padded)
        assert TokenCheck(optional(provider))(arrived) is None
        assert arrived.request.headers == (("x-payload", written),)


@pytest.mark.parametrize("name", ["x-role", "x_role"])
def test_nobody_forges_what_a_provider_writes(name: str) -> None:
    """With a token or without, by any spelling that CGI takes for the same, and before a preflight's bypass."""
    check = TokenCheck(optional(PROVIDER, replace(SECOND, claim_headers=(ClaimHeader("x-role", ("role",)),))))
    forged = (name, "admin")
    preflight = (("origin", "http://a"), ("access-control-request-method", "PUT"))
    for arrived in (visit(forged), visit(forged, bearer(token())), visit(forged, *preflight, method="OPTIONS")):
        assert check(arrived) is None
        assert forged not in arrived.request.headers


def test_words_in_a_text_are_a_list_for_policies() -> None:
    """`scope` and whatever else is named; a text without words stays one."""
    arrived = visit(bearer(token(scope="read  write", permission=" ", other="a b")))
    assert TokenCheck(optional(PROVIDER))(arrived) is None
    claims = arrived.metadata[METADATA]["payload"]
    assert (claims["scope"], claims["permission"], claims["other"]) == (["read", "write"], " ", "a b")


def test_with_several_rules_one_good_token_is_enough() -> None:
    """Both look at the same place; each would refuse the other's token."""
    check = TokenCheck(optional(PROVIDER, SECOND))
    assert check(visit(bearer(token()))) is None
    assert check(visit(bearer(token(OTHER, "iss-two")))) is None
    assert check(visit()) is None
    assert refusal(check, visit(bearer(token(OTHER)))).words == "Jwt verification fails"
    assert refusal(check, visit(bearer(token(issuer="iss-three")))).words == "Jwt issuer is not configured"


def test_with_several_places_every_token_must_be_good() -> None:
    """One that is good does not excuse another one, unless it satisfies a rule alone (Istio)."""
    apart = replace(SECOND, locations=(HeaderLocation("x-jwt"),))
    check = TokenCheck(optional(PROVIDER, apart))
    assert check(visit(bearer(token()), ("x-jwt", token(OTHER, "iss-two")))) is None
    assert check(visit(("x-jwt", token(OTHER, "iss-two")))) is None
    assert refusal(check, visit(("x-jwt", "bad"))).status == 401


def test_a_preflight_needs_no_token() -> None:
    """Browsers send none; the words of an ordinary OPTIONS count."""
    check = TokenCheck(optional(PROVIDER))
    marks = (("origin", "http://a"), ("access-control-request-method", "PUT"))
    assert check(visit(bearer("bad"), *marks, method="OPTIONS")) is None
    assert check(visit(bearer("bad"), *marks)) is not None
    assert check(visit(bearer("bad"), marks[0], method="OPTIONS")) is not None


def test_a_token_is_proved_once_and_its_time_looked_at_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 s after its end it is over, though it is remembered."""
    check, text = TokenCheck(optional(PROVIDER)), token(exp=NOW + 5)
    assert check(visit(bearer(text))) is None
    monkeypatch.setattr(jwt, "check_signature", lambda *_: pytest.fail("proved again"))
    assert check(visit(bearer(text), now=NOW + 65)) is None
    assert refusal(check, visit(bearer(text), now=NOW + 66)).words == "Jwt is expired"


def test_what_was_refused_is_not_remembered() -> None:
    """A token of tomorrow is good tomorrow."""
    check, text = TokenCheck(optional(PROVIDER)), token(nbf=NOW + 1000)
    assert refusal(check, visit(bearer(text))).words == "Jwt not yet valid"
    assert check(visit(bearer(text), now=NOW + 1000)) is None


def test_other_keys_know_nothing_of_what_was_proved() -> None:
    """A new configuration begins anew."""
    assert TokenCheck(optional(PROVIDER))(visit(bearer(token()))) is None
    changed = TokenCheck(optional(replace(PROVIDER, jwks=SECOND.jwks)))
    assert refusal(changed, visit(bearer(token()))).words == "Jwt verification fails"


def test_huge_tokens_are_judged_and_not_kept() -> None:
    """Memory is bounded by number and by length."""
    check, text = TokenCheck(optional(PROVIDER)), token(filler="x" * jwt.LONGEST_KEPT)
    assert check(visit(bearer(text))) is None
    assert check(visit(bearer(text))) is None
