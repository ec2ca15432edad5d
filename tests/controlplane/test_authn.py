"""Who is calling: credentials that count, and those that do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshlib.errors import CredentialError
from meshlib.identity import assertion
from meshlib.identity.csr import new_request
from meshlib_control.authn import Authenticator
from meshlib_control.ca import CertificateAuthority, open_authority
from meshlib_control.tokens import TokenExpired, TokenIssuer, open_issuer

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def issuer(tmp_path: Path) -> TokenIssuer:
    return open_issuer(tmp_path)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return open_authority(tmp_path, NOW)


@pytest.fixture
def authenticator(issuer: TokenIssuer, authority: CertificateAuthority) -> Authenticator:
    return Authenticator(issuer, "cluster.local", lambda: NOW, lambda: authority.roots_pem)


def certified(authority: CertificateAuthority, now: datetime, name: str = "spiffe://cluster.local/ns/shop/sa/reviews") -> str:
    """What a process with a certificate of this authority shows."""
    request = new_request()
    leaf, _ = authority.issue(request.pem, name, timedelta(hours=1), now)
    return assertion.make(leaf, request.key_pem, now.timestamp(), "1")


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "grpc-python"), ("authorization", f"Bearer {token}")]


def test_a_token_makes_a_spiffe_id(authenticator, issuer):
    """Trust domain from us, namespace and account from the token."""
    caller = authenticator.caller(bearer(issuer.create("shop", "reviews", NOW)))
    assert caller.spiffe_id == "spiffe://cluster.local/ns/shop/sa/reviews"
    assert (caller.namespace, caller.service_account) == ("shop", "reviews")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_schemes_case_does_not_matter(authenticator, issuer, scheme):
    """RFC 9110 11.1."""
    token = issuer.create("shop", "reviews", NOW)
    assert authenticator.caller([("Authorization", f"{scheme} {token}")]).namespace == "shop"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "token"])
def test_another_form_of_header_is_refused(authenticator, header):
    """The answer shows the right form."""
    with pytest.raises(CredentialError, match="Bearer TOKEN"):
        authenticator.caller([("authorization", header)])


def test_no_credential_is_refused_with_the_command_that_makes_one(authenticator):
    """Neither header nor certificate."""
    with pytest.raises(CredentialError, match="meshlib token create"):
        authenticator.caller([], {})


def test_an_expired_token_says_so(issuer, authority):
    """The token's own error passes through."""
    later = Authenticator(issuer, "cluster.local", lambda: NOW + timedelta(days=2), lambda: authority.roots_pem)
    with pytest.raises(TokenExpired, match="expired at"):
        later.caller(bearer(issuer.create("shop", "reviews", NOW)))


def test_a_certificate_makes_the_same_caller_as_a_token(authenticator, authority, issuer):
    """Whoever has joined goes on as who it is."""
    joined = authenticator.caller(bearer(issuer.create("shop", "reviews", NOW)))
    assert authenticator.caller(bearer(certified(authority, NOW))) == joined


def test_an_expired_certificate_says_so(authority, issuer):
    """With the way to join again."""
    later = Authenticator(issuer, "cluster.local", lambda: NOW + timedelta(hours=2), lambda: authority.roots_pem)
    with pytest.raises(CredentialError, match=r"it has expired: .* Join again with a token: meshlib token create"):
        later.caller(bearer(certified(authority, NOW)))


def test_a_certificate_of_another_control_plane_is_refused(authenticator, tmp_path):
    """Its root is not ours."""
    with pytest.raises(CredentialError, match="not one that this root vouches for"):
        authenticator.caller(bearer(certified(open_authority(tmp_path / "other", NOW), NOW)))


def test_the_control_planes_own_certificate_is_no_workloads(authenticator, authority):
    """It has names of hosts, and no identity."""
    server = authority.server_certificate([], NOW)
    leaf = server.chain.decode().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    with pytest.raises(CredentialError, match="exactly one SPIFFE id"):
        authenticator.caller(bearer(assertion.make(leaf, server.key, NOW.timestamp(), "1")))


def test_a_client_certificate_of_ours_counts(authenticator):
    """grpcio has verified the chain and names the SPIFFE id."""
    context = {"transport_security_type": [b"ssl"], "peer_spiffe_id": [b"spiffe://cluster.local/ns/shop/sa/reviews"]}
    assert authenticator.caller([], context).service_account == "reviews"


@pytest.mark.parametrize(
    "identity", [b"spiffe://elsewhere/ns/shop/sa/reviews", b"spiffe://cluster.local/agent", b"https://cluster.local/ns/a/sa/b"]
)
def test_a_certificate_for_another_mesh_or_form_is_refused(authenticator, identity):
    """Same root, other name: not a service account of this mesh."""
    with pytest.raises(CredentialError):
        authenticator.caller([], {"peer_spiffe_id": [identity]})


def test_a_certificate_of_the_meshs_former_name_counts_for_the_new_one(issuer, authority):
    """Its holder gets certificates of the new trust domain with it; other names are refused as before."""
    renamed = Authenticator(
        issuer, "new.example", lambda: NOW, lambda: authority.roots_pem, aliases=lambda: ("cluster.local",)
    )
    expected = "spiffe://new.example/ns/shop/sa/reviews"
    assert renamed.caller(bearer(certified(authority, NOW))).spiffe_id == expected
    assert renamed.caller([], {"peer_spiffe_id": [b"spiffe://cluster.local/ns/shop/sa/reviews"]}).spiffe_id == expected
    foreign = "spiffe://elsewhere/ns/shop/sa/reviews"
    with pytest.raises(CredentialError, match=r"'elsewhere', this one is 'new\.example'"):
        renamed.caller(bearer(certified(authority, NOW, foreign)))
    with pytest.raises(CredentialError, match=r"'elsewhere', this one is 'new\.example'"):
        renamed.caller([], {"peer_spiffe_id": [foreign.encode()]})


def test_a_wrong_token_is_not_rescued_by_a_certificate(authenticator):
    """Who shows a token is judged by it."""
    with pytest.raises(CredentialError):
        authenticator.caller(bearer("nonsense"), {"peer_spiffe_id": [b"spiffe://cluster.local/ns/shop/sa/reviews"]})
