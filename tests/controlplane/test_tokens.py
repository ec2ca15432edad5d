"""Join tokens: what they say, and that each way of being wrong has its own answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from meshlib.errors import SettingsError
from meshlib_control.tokens import (
    MalformedToken,
    TokenExpired,
    TokenIssuer,
    TokenNotYetValid,
    WrongAudience,
    WrongSignature,
    open_admin_token,
    open_issuer,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def issuer(tmp_path: Path) -> TokenIssuer:
    return open_issuer(tmp_path)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def read(token: str, which: int) -> dict[str, object]:
    text = token.split(".")[which]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def signed(issuer: TokenIssuer, **changes: object) -> str:
    claims = read(issuer.create("default", "reviews", NOW), 1) | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "ES256", "kid": issuer.key_id}, claims, issuer.key, algorithms=["ES256"])


def test_a_token_stands_for_the_service_account_it_was_made_for(issuer):
    """Create, then verify, is identity."""
    account = issuer.verify(issuer.create("default", "bookinfo-reviews", NOW), NOW)
    assert (account.namespace, account.name, account.expires) == ("default", "bookinfo-reviews", NOW + timedelta(hours=24))


def test_a_token_has_the_claims_that_istios_ca_reads(issuer):
    """Audience istio-ca, a subject in Kubernetes' form, an id and times."""
    token = issuer.create("default", "bookinfo-reviews", NOW, HOUR)
    claims = read(token, 1)
    assert claims["sub"] == "system:serviceaccount:default:bookinfo-reviews"
    assert (claims["iss"], claims["aud"]) == ("meshlib", ["istio-ca"])
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["nbf"] == claims["iat"] == NOW.timestamp()
    assert claims["jti"] != read(issuer.create("default", "bookinfo-reviews", NOW, HOUR), 1)["jti"]
    assert read(token, 0) == {"alg": "ES256", "kid": issuer.key_id, "typ": "JWT"}


def test_an_expired_token_is_told_both_times(issuer):
    """The reader sees when it ended and what the time is here: a wrong clock shows at once."""
    token = issuer.create("default", "reviews", NOW, HOUR)
    with pytest.raises(TokenExpired, match=r"2026-03-01 13:00:00 UTC .* 2026-03-01 15:00:00 UTC") as refused:
        issuer.verify(token, NOW + 3 * HOUR)
    assert "meshlib token create --service-account reviews" in str(refused.value)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=59)])
def test_a_minute_of_clock_skew_is_forgiven_at_the_end(issuer, late):
    """As Istio's JWT checks do."""
    token = issuer.create("default", "reviews", NOW, HOUR)
    assert issuer.verify(token, NOW + HOUR + late).name == "reviews"


def test_the_minute_ends_after_sixty_seconds(issuer):
    """The bound itself is outside."""
    token = issuer.create("default", "reviews", NOW, HOUR)
    with pytest.raises(TokenExpired):
        issuer.verify(token, NOW + HOUR + timedelta(seconds=60))


def test_a_token_from_the_future_speaks_of_clocks(issuer):
    """A clock an hour off is the usual cause."""
    token = issuer.create("default", "reviews", NOW + HOUR)
    with pytest.raises(TokenNotYetValid, match=r"13:00:00 UTC on and it is 2026-03-01 12:00:00 UTC .*clock"):
        issuer.verify(token, NOW)
    assert issuer.verify(token, NOW + HOUR - timedelta(seconds=60)).name == "reviews"


@pytest.mark.parametrize("audience", ["api", ["api", "vault"], None, 7])
def test_a_token_for_another_use_is_refused_with_its_audience(issuer, audience):
    """A token that somebody may hold for something else opens nothing here."""
    with pytest.raises(WrongAudience, match="istio-ca"):
        issuer.verify(signed(issuer, aud=audience), NOW)


def test_a_single_audience_as_text_is_accepted(issuer):
    """RFC 7519 4.1.3 allows a string in place of a list."""
    assert issuer.verify(signed(issuer, aud="istio-ca"), NOW).name == "reviews"


def test_a_token_of_another_control_plane_says_so(issuer, tmp_path):
    """The key id differs."""
    other = open_issuer(tmp_path / "other")
    with pytest.raises(WrongSignature, match="another control plane"):
        issuer.verify(other.create("default", "reviews", NOW), NOW)


def test_a_key_id_proves_nothing(issuer):
    """Another key under our key's id is found out by the signature."""
    stranger = ECKey.generate_key("P-256")
    claims = read(issuer.create("default", "reviews", NOW), 1)
    forged = jwt.encode({"alg": "ES256", "kid": issuer.key_id}, claims, stranger, algorithms=["ES256"])
    with pytest.raises(WrongSignature, match="signature is wrong"):
        issuer.verify(forged, NOW)


def test_a_changed_claim_breaks_the_signature(issuer):
    """Another service account, the old signature."""
    header, _, signature = issuer.create("default", "reviews", NOW).split(".")
    claims = read(issuer.create("default", "reviews", NOW), 1) | {"sub": "system:serviceaccount:default:admin"}
    with pytest.raises(WrongSignature):
        issuer.verify(f"{header}.{part(claims)}.{signature}", NOW)


def test_an_unsigned_token_is_refused(issuer):
    """alg none, the oldest trick."""
    claims = read(issuer.create("default", "reviews", NOW), 1)
    with pytest.raises(MalformedToken, match="ES256"):
        issuer.verify(f"{part({'alg': 'none', 'kid': issuer.key_id})}.{part(claims)}.", NOW)


def test_our_public_key_is_no_hmac_secret(issuer):
    """Key confusion: HS256 with the public key's PEM as the secret."""
    claims = read(issuer.create("default", "reviews", NOW), 1)
    text = f"{part({'alg': 'HS256', 'kid': issuer.key_id})}.{part(claims)}"
    secret = issuer.key.as_pem(private=False)
    signature = base64.urlsafe_b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    with pytest.raises(MalformedToken, match="ES256"):
        issuer.verify(f"{text}.{signature}", NOW)


@pytest.mark.parametrize("text", ["", "abc", "a.b.c", "...", "é.b.c", "x" * 20_000, "e30.e30.e30"])
def test_what_is_no_token_is_refused(issuer, text):
    """No input makes anything but a refusal."""
    with pytest.raises((MalformedToken, WrongSignature)):
        issuer.verify(text, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 10**20},
        {"nbf": None},
        {"iss": "kubernetes"},
        {"sub": None},
        {"sub": "system:serviceaccount:default"},
        {"sub": "system:serviceaccount:default:a:b"},
        {"sub": "system:serviceaccount:default:a/b"},
        {"sub": "system:node:default:a"},
    ],
)
def test_a_missing_or_odd_claim_is_refused(issuer, changes):
    """Even under our own signature nothing is assumed."""
    with pytest.raises(MalformedToken):
        issuer.verify(signed(issuer, **changes), NOW)


@pytest.mark.parametrize(
    ("namespace", "name"), [("Default", "a"), ("", "a"), ("a:b", "c"), ("default", ""), ("default", "a/b")]
)
def test_a_token_is_made_for_possible_names_only(issuer, namespace, name):
    """The names become part of a SPIFFE id."""
    with pytest.raises(SettingsError, match="lower-case"):
        issuer.create(namespace, name, NOW)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=366)])
def test_a_lifetime_has_bounds(issuer, lifetime):
    """A token that never ends cannot be asked for."""
    with pytest.raises(SettingsError, match="24h"):
        issuer.create("default", "reviews", NOW, lifetime)


def test_tokens_outlive_a_restart(issuer, tmp_path):
    """The key is kept."""
    token = issuer.create("default", "reviews", NOW)
    assert open_issuer(tmp_path).verify(token, NOW).name == "reviews"


def test_the_keys_file_is_private_and_checked(issuer, tmp_path):
    """Who can read the key can be anybody."""
    path = tmp_path / "token-key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    os.chmod(path, 0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        open_issuer(tmp_path)


def test_a_broken_key_is_named(tmp_path):
    """The text says what removing the file means."""
    path = tmp_path / "token-key.pem"
    path.write_text("garbage")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="become invalid"):
        open_issuer(tmp_path)


def test_the_admin_token_is_made_once_and_private(tmp_path):
    """A restart keeps scripts working."""
    token = open_admin_token(tmp_path)
    assert len(token) >= 43
    assert open_admin_token(tmp_path) == token
    assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600


def test_an_empty_admin_token_would_let_everybody_in_and_is_refused(tmp_path):
    """A cut-off file is no credential."""
    path = tmp_path / "admin.token"
    path.touch(mode=0o600)
    with pytest.raises(SettingsError, match="empty"):
        open_admin_token(tmp_path)
