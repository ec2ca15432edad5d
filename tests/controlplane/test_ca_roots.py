"""The roots on disk and their replacement: each state is kept whole, and whoever knows one of its roots can follow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from meshlib.errors import SettingsError
from meshlib.identity.csr import new_request
from meshlib_control.ca import LONGEST_LIFETIME, CertificateAuthority, key_pem, open_authority, pem_of
from meshlib_control.ca_roots import KeptRoots, Phase, open_roots

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
REVIEWS = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
DAY = timedelta(days=1)

Step = Callable[[KeptRoots], None]
BEGIN: Step = lambda kept: kept.begin(NOW)  # noqa: E731
SWITCH: Step = lambda kept: kept.switch(NOW)  # noqa: E731
RETIRE: Step = lambda kept: kept.retire()  # noqa: E731


def after(folder: Path, *steps: Step) -> KeptRoots:
    kept = open_roots(folder, NOW)
    for step in steps:
        step(kept)
    return kept


def chain_of(authority: CertificateAuthority) -> list[x509.Certificate]:
    """A new leaf with what is sent after it."""
    *chain, _ = authority.issue(new_request().pem, REVIEWS, DAY, NOW)
    return [x509.load_pem_x509_certificate(one.encode()) for one in chain]


def vouches(root: x509.Certificate, chain: list[x509.Certificate]) -> bool:
    """Whether somebody who knows this root alone accepts the chain."""
    leaf, *between = chain
    try:
        PolicyBuilder().store(Store([root])).time(NOW).build_client_verifier().verify(leaf, between)
    except VerificationError:
        return False
    return True


def test_a_restart_keeps_the_root(tmp_path: Path) -> None:
    """The same folder gives the same root; services keep their trust."""
    first = open_authority(tmp_path, NOW)
    assert open_authority(tmp_path, NOW + DAY).certificate == first.certificate


def test_the_root_key_is_its_owners_alone_and_lives_ten_years(tmp_path: Path) -> None:
    """Mode 0600, P-256."""
    authority = open_authority(tmp_path, NOW)
    assert (tmp_path / "ca.json").stat().st_mode & 0o777 == 0o600
    assert isinstance(authority.key, ec.EllipticCurvePrivateKey)
    assert isinstance(authority.key.curve, ec.SECP256R1)
    assert authority.certificate.not_valid_after_utc == NOW + timedelta(days=3650)


def test_a_root_key_that_others_can_read_is_refused_with_advice(tmp_path: Path) -> None:
    """It may be known; the text says how to go on."""
    open_authority(tmp_path, NOW)
    os.chmod(tmp_path / "ca.json", 0o640)
    with pytest.raises(SettingsError, match=r"0640.*chmod 600"):
        open_authority(tmp_path, NOW)


def test_a_root_without_its_key_is_refused_instead_of_made_anew(tmp_path: Path) -> None:
    """A new root would cut every service off; that needs a person's decision."""
    open_authority(tmp_path, NOW)
    (tmp_path / "ca.json").unlink()
    with pytest.raises(SettingsError, match=r"ca\.json with its key is missing"):
        open_authority(tmp_path, NOW)


@pytest.mark.parametrize("content", ["garbage", "{}", "[]", '{"signing": {"key": "", "certificate": ""}}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    """With what to do."""
    open_authority(tmp_path, NOW)
    (tmp_path / "ca.json").write_text(content)
    with pytest.raises(SettingsError, match=r"ca\.json holds no certificate authority.*backup"):
        open_authority(tmp_path, NOW)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("garbage")])
def test_the_copy_for_people_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """What counts is in the other file."""
    before = open_authority(tmp_path, NOW)
    damage(tmp_path / "root-cert.pem")
    assert open_authority(tmp_path, NOW).certificate == before.certificate
    assert (tmp_path / "root-cert.pem").read_bytes() == before.roots_pem


def test_a_key_of_another_root_is_refused(tmp_path: Path) -> None:
    """Certificates signed with it would be trusted by nobody."""
    open_authority(tmp_path / "a", NOW)
    open_authority(tmp_path / "b", NOW)
    own, other = (json.loads((tmp_path / name / "ca.json").read_text()) for name in "ab")
    own["signing"]["key"] = other["signing"]["key"]
    (tmp_path / "a/ca.json").write_text(json.dumps(own))
    with pytest.raises(SettingsError, match="do not belong together"):
        open_authority(tmp_path / "a", NOW)


@pytest.mark.parametrize(("now", "words"), [(NOW - DAY, "set the clock"), (NOW + timedelta(days=4000), r"remove ca\.json")])
def test_a_root_that_is_not_valid_now_is_refused_with_advice(tmp_path: Path, now: datetime, words: str) -> None:
    """A wrong clock and an old root need different answers."""
    open_authority(tmp_path, NOW)
    with pytest.raises(SettingsError, match=words):
        open_authority(tmp_path, now)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "data").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write .*data"):
        open_authority(tmp_path / "data", NOW)


def test_the_root_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    """With its key, which is kept once. The lifetimes that it gave are not known: the longest is assumed."""
    former = open_authority(tmp_path / "former", NOW)
    (tmp_path / "root-key.pem").write_bytes(key_pem(former.key))
    (tmp_path / "root-key.pem").chmod(0o600)
    (tmp_path / "root-cert.pem").write_bytes(pem_of(former.certificate))
    kept = open_roots(tmp_path, NOW)
    assert kept.current.certificate == former.certificate
    assert kept.roots.longest == LONGEST_LIFETIME
    assert not (tmp_path / "root-key.pem").exists()


# Replacement


def test_who_signs_and_who_is_trusted_in_each_state(tmp_path: Path) -> None:
    """The one that signs comes first: members take that as the sign to renew."""
    kept = open_roots(tmp_path, NOW)
    old = kept.current.certificate
    BEGIN(kept)
    assert kept.roots.next is not None
    new = kept.roots.next.certificate
    assert (kept.roots.phase, kept.current.certificate, kept.current.roots) == (Phase.DISTRIBUTING, old, (old, new))
    SWITCH(kept)
    assert (kept.roots.phase, kept.current.certificate, kept.current.roots) == (Phase.RETIRING, new, (new, old))
    RETIRE(kept)
    assert (kept.roots.phase, kept.current.certificate, kept.current.roots) == (Phase.STEADY, new, (new,))


@pytest.mark.parametrize("steps", [(BEGIN,), (BEGIN, SWITCH), (BEGIN, SWITCH, RETIRE)], ids=["begun", "switched", "retired"])
def test_each_state_survives_a_restart(tmp_path: Path, steps: tuple[Step, ...]) -> None:
    """And the copy for people says the same."""
    before = after(tmp_path, *steps)
    found = open_roots(tmp_path, NOW)
    assert found.roots.to_json() == before.roots.to_json()
    assert (tmp_path / "root-cert.pem").read_bytes() == found.current.roots_pem == before.current.roots_pem


@pytest.mark.parametrize("steps", [(), (BEGIN,), (BEGIN, SWITCH)], ids=["steady", "begun", "switched"])
@pytest.mark.parametrize("what", ["ca.json", "root-cert.pem"])
def test_who_is_killed_in_a_step_is_before_or_after_it(
    tmp_path: Path, steps: tuple[Step, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends where it would have written a file; what the next one finds is a state of the table."""
    kept = after(tmp_path, *steps)
    before = kept.roots.to_json()
    rename = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == what:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        (BEGIN, SWITCH, RETIRE)[len(steps)](kept)
    monkeypatch.undo()
    found = open_roots(tmp_path, NOW)
    phases = (Phase.STEADY, Phase.DISTRIBUTING, Phase.RETIRING, Phase.STEADY)
    assert found.roots.phase is phases[len(steps) + (what != "ca.json")]
    assert (found.roots.to_json() == before) == (what == "ca.json")
    assert (tmp_path / "root-cert.pem").read_bytes() == found.current.roots_pem


def test_nobody_is_left_behind_by_the_switch(tmp_path: Path) -> None:
    """Who was away and knows the old root alone accepts the new one's certificates, until the old one is retired."""
    kept = open_roots(tmp_path, NOW)
    old = kept.current.certificate
    before = chain_of(kept.current)
    BEGIN(kept)
    SWITCH(kept)
    new = kept.current.certificate
    assert [vouches(root, chain_of(kept.current)) for root in (old, new)] == [True, True]
    assert [vouches(root, before) for root in (old, new)] == [True, False]
    RETIRE(kept)
    assert [vouches(root, chain_of(kept.current)) for root in (old, new)] == [False, True]


def test_the_control_plane_still_proves_itself_to_those_with_an_old_root_file(tmp_path: Path) -> None:
    """Long after the replacement: else nobody could join again who was given the file once."""
    kept = open_roots(tmp_path, NOW)
    old = kept.current.certificate
    for step in (BEGIN, SWITCH, RETIRE):
        step(kept)
    leaf, *between = x509.load_pem_x509_certificates(kept.current.server_certificate([], NOW).chain)
    name = x509.DNSName("localhost")
    for root in (old, kept.current.certificate):
        PolicyBuilder().store(Store([root])).time(NOW).build_server_verifier(name).verify(leaf, between)


def test_the_old_key_is_forgotten_with_the_switch(tmp_path: Path) -> None:
    """It signs nothing any more, so nobody can steal it."""
    kept = open_roots(tmp_path, NOW)
    old = key_pem(kept.current.key)
    BEGIN(kept)
    assert json.loads((tmp_path / "ca.json").read_text())["signing"]["key"].encode() == old
    SWITCH(kept)
    texts = json.dumps([path.read_text() for path in tmp_path.iterdir()])
    assert json.dumps(old.decode())[1:-1] not in texts
    assert serialization.load_pem_private_key(key_pem(kept.current.key), None)


def test_the_old_root_stays_until_the_longest_life_it_gave_is_over(tmp_path: Path) -> None:
    """Also when the control plane started anew in between."""
    kept = open_roots(tmp_path, NOW)
    for lifetime in (timedelta(hours=1), DAY, timedelta(seconds=5)):
        kept.granted(lifetime)
    kept = after(tmp_path, BEGIN, SWITCH)
    assert kept.roots.old_until == NOW + DAY
    assert kept.roots.longest == timedelta(0)


def test_the_disk_is_written_for_a_longer_life_only(tmp_path: Path) -> None:
    """Not for each certificate."""
    kept = open_roots(tmp_path, NOW)
    kept.granted(DAY)
    written = (tmp_path / "ca.json").stat().st_ino
    kept.granted(DAY)
    assert (tmp_path / "ca.json").stat().st_ino == written
    kept.granted(2 * DAY)
    assert (tmp_path / "ca.json").stat().st_ino != written


def test_one_replacement_at_a_time(tmp_path: Path) -> None:
    """The second says how far the first is."""
    kept = after(tmp_path, BEGIN)
    with pytest.raises(SettingsError, match="being replaced already: distributing"):
        BEGIN(kept)
    SWITCH(kept)
    with pytest.raises(SettingsError, match="being replaced already: retiring"):
        BEGIN(kept)


def test_a_disk_that_does_not_take_it_changes_nothing(tmp_path: Path) -> None:
    """Neither what signs nor what is trusted: others must not hear of what a restart would forget."""
    kept = open_roots(tmp_path / "data", NOW)
    before, heard = kept.current, list[str]()
    kept.on_change(lambda: heard.append("changed"))
    (tmp_path / "data" / "ca.json").unlink()
    (tmp_path / "data" / "ca.json").mkdir()
    with pytest.raises(SettingsError, match="cannot write"):
        BEGIN(kept)
    assert kept.current is before
    assert heard == []
