"""An authority in Istio's `cacerts` layout: what it signs, what is refused, what happens when the files change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from meshlib.errors import CredentialError, SettingsError
from meshlib.identity import assertion
from meshlib.identity.csr import new_request
from meshlib_control import looking
from meshlib_control.ca_plugged import PluggedAuthority, load
from meshlib_control.errors import CannotStart
from tests.controlplane.test_root_rotation import Running
from tests.support.cacerts import DAY, Issuer, made, write
from tests.support.control import asking, running

REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"


@pytest.fixture(scope="module")
def root() -> Issuer:
    return made("Root CA", kind="rsa", life=3650 * DAY)


@pytest.fixture(scope="module")
def signs(root: Issuer) -> Issuer:
    return root.below("Intermediate CA", kind="rsa")


def utc_now() -> datetime:
    return datetime.now(UTC)


def loaded(folder: Path) -> Any:
    return load(folder, utc_now())


def test_the_chain_leads_from_the_leaf_over_the_files_to_the_root(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Each certificate once, though Istio's files hold them more than once."""
    authority = loaded(write(tmp_path, signs, roots=(root,)))
    leaf, *rest = authority.issue(new_request().pem, REVIEWS, timedelta(hours=1), utc_now())
    x509.load_pem_x509_certificate(leaf.encode()).verify_directly_issued_by(signs.certificate)
    assert [one.encode() for one in rest] == [
        (tmp_path / "ca-cert.pem").read_bytes(),
        (tmp_path / "root-cert.pem").read_bytes(),
    ]


def test_a_member_proves_itself_with_the_chain(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Its leaf and the intermediate; without the intermediate it leads nowhere."""
    authority = loaded(write(tmp_path, signs, roots=(root,)))
    request = new_request()
    *chain, _ = authority.issue(request.pem, REVIEWS, timedelta(hours=1), utc_now())
    now = utc_now().timestamp()
    whole = assertion.make("".join(chain), request.key_pem, now, "1")
    assert str(assertion.verify(whole, authority.roots_pem, ("cluster.local",), now)) == REVIEWS
    broken = assertion.make(chain[0], request.key_pem, now, "2")
    with pytest.raises(CredentialError, match="not one that this root vouches for"):
        assertion.verify(broken, authority.roots_pem, ("cluster.local",), now)


def test_an_intermediate_below_another(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """The way to the root is found whatever the order in the file."""
    below = signs.below("Deeper CA")
    folder = write(tmp_path, below, roots=(root,))
    (folder / "cert-chain.pem").write_bytes(root.pem + signs.pem)
    authority = loaded(folder)
    assert authority.chain == (below.certificate, signs.certificate)
    assert authority.roots == (root.certificate,)


def test_a_root_may_sign_itself(tmp_path: Path) -> None:
    """Nothing is sent besides the leaf then."""
    alone = made("Root CA")
    authority = loaded(write(tmp_path, alone, roots=(alone,)))
    assert (authority.chain, authority.roots) == ((), (alone.certificate,))


def test_the_root_that_leaves_lead_to_comes_first(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Members take another first root as the sign to renew."""
    other = made("Other root")
    assert loaded(write(tmp_path, signs, roots=(other, root))).roots == (root.certificate, other.certificate)


def test_no_leaf_outlives_the_one_that_signed_it(tmp_path: Path, root: Issuer) -> None:
    """Nobody would accept it."""
    short = root.below("Intermediate CA", life=DAY + timedelta(hours=2))
    leaf, *_ = loaded(write(tmp_path, short, roots=(root,))).issue(new_request().pem, REVIEWS, DAY, utc_now())
    assert x509.load_pem_x509_certificate(leaf.encode()).not_valid_after_utc == short.certificate.not_valid_after_utc


Damage = Callable[[Path, Issuer, Issuer], object]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda at, *_: (at / "ca-key.pem").unlink(), "ca-key.pem", id="no key"),
        pytest.param(lambda at, *_: (at / "ca-key.pem").chmod(0o644), "can be read by other users", id="open key"),
        pytest.param(lambda at, *_: (at / "ca-key.pem").write_text("x"), "no private key in PEM", id="broken key"),
        pytest.param(
            lambda at, *_: (at / "ca-key.pem").write_bytes(made("x").key_pem), "do not belong together", id="other key"
        ),
        pytest.param(lambda at, *_: (at / "ca-cert.pem").write_text("x"), "ca-cert.pem holds no certificates", id="broken"),
        pytest.param(lambda at, *_: (at / "root-cert.pem").unlink(), "cannot read .*root-cert.pem", id="no root"),
        pytest.param(
            lambda at, root, _: write(at, root.below("A", life=DAY / 2), roots=(root,)), "ended at .* UTC", id="over"
        ),
        pytest.param(
            lambda at, root, _: write(at, root.below("A", since=-DAY), roots=(root,)), "not valid before", id="not yet"
        ),
        pytest.param(
            lambda at, root, _: write(at, root.below("A", ca=False), roots=(root,)), "may not sign", id="no authority"
        ),
        pytest.param(lambda at, root, _: write(at, root.below("A", kind="weak"), roots=(root,)), "not good enough", id="weak"),
        pytest.param(
            lambda at, root, signs: write(at, signs.below("Deeper CA"), roots=(root,)),
            "leads to no root: its issuer .*Intermediate CA.* is neither in cert-chain.pem",
            id="missing intermediate",
        ),
        pytest.param(lambda at, _, signs: write(at, signs, roots=(made("Other"),)), "leads to no root", id="other root"),
        pytest.param(
            lambda at, _, signs: (at / "ca-crl.pem").write_bytes(made("Intermediate CA").revocations()),
            "not signed by",
            id="foreign list",
        ),
        pytest.param(
            lambda at, *_: (at / "ca-crl.pem").write_bytes(b"x-----END X509 CRL-----"), "no revocation lists", id="broken list"
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    tmp_path: Path, root: Issuer, signs: Issuer, damage: Damage, words: str
) -> None:
    """And in a running mesh the authority of before stays."""
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    authority = PluggedAuthority(folder, tmp_path, utc_now)
    before = authority.current
    damage(folder, root, signs)
    with pytest.raises(CannotStart, match=words):
        load(folder, utc_now())
    with pytest.raises(CannotStart, match=words):
        touched(authority, folder)
    assert authority.current is before


def touched(authority: PluggedAuthority, folder: Path) -> bool:
    """A step after the files changed, if only in time."""
    (folder / "root-cert.pem").exists() and (folder / "root-cert.pem").write_bytes((folder / "root-cert.pem").read_bytes())
    return authority.step()


def test_other_files_are_taken_into_use(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Once, and those who listen are told; the copy for people follows."""
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    authority, told = PluggedAuthority(folder, tmp_path, utc_now), list[str]()
    authority.on_change(lambda: told.append("changed"))
    assert not authority.step()
    other = made("Other root")
    write(folder, other.below("Other CA"), roots=(other, root))
    assert authority.step()
    assert not authority.step()
    assert told == ["changed"]
    assert (tmp_path / "root-cert.pem").read_bytes() == other.pem + root.pem
    assert [one["signs"] for one in authority.status()["roots"]] == [True, False]


def test_half_of_a_change_is_waited_for(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Who copies files does so one by one."""
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    authority, new = PluggedAuthority(folder, tmp_path, utc_now), root.below("New CA")
    (folder / "ca-cert.pem").write_bytes(new.pem)
    with pytest.raises(CannotStart, match="do not belong together"):
        authority.step()
    (folder / "ca-key.pem").write_bytes(new.key_pem)
    assert authority.step()
    assert authority.current.certificate == new.certificate


def test_the_root_cannot_be_replaced_from_here(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """The answer says how it is done instead."""
    authority = PluggedAuthority(write(tmp_path / "cacerts", signs, roots=(root,)), tmp_path, utc_now)
    with pytest.raises(SettingsError, match=r"plugged in\. Put both roots into .*root-cert\.pem"):
        authority.begin()


# In a running control plane


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "PERIOD", 0.05)


async def started(plane: Any, api: Any) -> Running:
    token = (await api.post("/v1/tokens", json={"serviceAccount": "client"})).json()["token"]
    return Running(plane, api, token)


@pytest.mark.usefixtures("quick")
async def test_members_join_under_a_plugged_authority_and_follow_its_files(
    tmp_path: Path, root: Issuer, signs: Issuer
) -> None:
    """Both ports; a new intermediate of another root takes over while the old one's certificates still count."""
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    async with running(tmp_path, cacerts=folder) as plane, asking(plane) as api:
        found = await started(plane, api)
        old, trusted = await found.certificate(root.pem)
        assert trusted == root.pem
        assert await found.accepts(old)
        other = made("Other root")
        write(folder, other.below("Other CA"), roots=(other, root))
        async with asyncio.timeout(10):
            while found.root_file != other.pem + root.pem:  # noqa: ASYNC110  another task's doing, seen on disk
                await asyncio.sleep(0.02)
        new, trusted = await found.certificate(found.root_file)
        assert trusted == other.pem + root.pem
        assert await found.accepts(new)


@pytest.mark.usefixtures("quick")
async def test_a_revoked_certificate_is_no_credential(tmp_path: Path, root: Issuer, signs: Issuer) -> None:
    """Neither at the port for certificates nor signed with its key; others are."""
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    authority, request, other = load(folder, utc_now()), new_request(), new_request()
    chains = [authority.issue(one.pem, REVIEWS, DAY, utc_now())[:-1] for one in (request, other)]
    serial = x509.load_pem_x509_certificate(chains[0][0].encode()).serial_number
    write(folder, signs, roots=(root,), revoked=signs.revocations(serial))
    async with running(tmp_path, cacerts=folder) as plane, asking(plane) as api:
        found = await started(plane, api)
        proofs = [
            grpc.ssl_channel_credentials(root.pem, one.key_pem, "".join(chain).encode())
            for one, chain in zip((request, other), chains, strict=True)
        ]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with found.stream(proofs[0]):
                pass
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "was revoked at" in str(refused.value.details())
        async with found.stream(proofs[1]):
            pass
    now, roots, lists = utc_now().timestamp(), authority.roots_pem, (folder / "ca-crl.pem").read_bytes()
    signed = [
        assertion.make("".join(chain), one.key_pem, now, "1") for one, chain in zip((request, other), chains, strict=True)
    ]
    with pytest.raises(CredentialError, match="was revoked at"):
        assertion.verify(signed[0], roots, ("cluster.local",), now, lists)
    assert str(assertion.verify(signed[1], roots, ("cluster.local",), now, lists)) == REVIEWS
