"""A certificate in files: private, and never one certificate's key beside another certificate."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from meshlib.errors import SettingsError
from meshlib.identity.leaf import leaf_from_pem
from meshlib.runtime.certificate_files import CertificateFolder
from meshlib.runtime.certificates import Identity
from meshlib.runtime.grpc_bootstrap import bootstrap, refresh_interval
from meshlib.runtime.settings import Settings
from tests.support.pki import Authority


def identity(authority: Authority, account: str = "reviews") -> Identity:
    leaf = authority.issue(account)
    return Identity(leaf.chain.decode(), leaf.key, authority.root.decode(), leaf_from_pem(leaf.chain.decode()))


@pytest.fixture
def folder(tmp_path: Path) -> CertificateFolder:
    return CertificateFolder(tmp_path / "certs")


def contents(folder: CertificateFolder) -> tuple[bytes, bytes, bytes]:
    return folder.key.read_bytes(), folder.chain.read_bytes(), folder.roots.read_bytes()


def test_the_three_files_hold_the_identity(folder: CertificateFolder) -> None:
    """Under the names of Istio's agent."""
    mine = identity(Authority())
    folder.write(mine)
    assert contents(folder) == (mine.key, mine.chain.encode(), mine.roots.encode())
    assert {path.name for path in (folder.key, folder.chain, folder.roots)} == {"key.pem", "cert-chain.pem", "root-cert.pem"}


def test_nobody_else_may_look(folder: CertificateFolder) -> None:
    """Folders 0700, files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        folder.write(identity(Authority()))
    finally:
        os.umask(before)
    for path in [folder.path, *folder.path.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_folder_that_is_open_to_others_is_refused(folder: CertificateFolder) -> None:
    """With the command that closes it; nothing is written."""
    folder.path.mkdir(mode=0o755)
    with pytest.raises(SettingsError, match="chmod 700"):
        folder.write(identity(Authority()))
    assert list(folder.path.iterdir()) == []


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "certs").write_text("")
    with pytest.raises(SettingsError, match="certs"):
        CertificateFolder(tmp_path / "certs").write(identity(Authority()))


def test_key_chain_and_root_change_in_one_step(folder: CertificateFolder) -> None:
    """A reader that follows the link once never sees a mixture, however often it is replaced meanwhile."""
    authority = Authority()
    identities = [identity(authority, f"account-{number}") for number in range(3)]
    whole = {(one.key, one.chain.encode()) for one in identities}
    folder.write(identities[0])
    done, seen = threading.Event(), set[tuple[bytes, bytes]]()

    def read() -> None:
        while not done.is_set():
            generation = folder.path / os.readlink(folder.path / "..data")
            try:
                seen.add(((generation / "key.pem").read_bytes(), (generation / "cert-chain.pem").read_bytes()))
            except FileNotFoundError:
                continue  # two generations older than the newest: gone

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        folder.write(identities[number % 3])
    done.set()
    reader.join()
    assert seen
    assert seen <= whole


def test_old_keys_do_not_pile_up(folder: CertificateFolder) -> None:
    """The newest, and the one before for a reader that is on its way to it."""
    for _ in range(5):
        folder.write(identity(Authority()))
    assert len(list(folder.path.rglob("key.pem"))) == 3  # the link, and two generations


@pytest.mark.parametrize(("lifetime", "seconds"), [(86400, 60), (3600, 36), (30, 1), (90 * 86400, 60)])
def test_files_are_read_often_enough_for_the_certificates_life(lifetime: int, seconds: int) -> None:
    """At least once a minute; gRPC's own ten minutes are longer than half of a short life."""
    assert refresh_interval(lifetime) == seconds


def test_a_bootstrap_holds_no_secret(folder: CertificateFolder) -> None:
    """It names files; the token stays where it is."""
    settings = Settings(service="reviews", token="secret-token", control_plane="plane.example:15012")
    content = bootstrap(settings, "192.0.2.7", folder, 7001)
    assert "secret-token" not in str(content)
    assert content["xds_servers"][0]["server_uri"] == "plane.example:15013"
