"""`meshlib cert`: what files and ports show, and whether the mesh would believe it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshlib.identity.csr import new_request
from meshlib_control.ca import open_authority
from meshlib_control.serve import ControlPlane
from tests.controlplane.cli.conftest import Meshlib
from tests.support.cacerts import made, write

REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"
HOUR = timedelta(hours=1)


@pytest.fixture
def files(meshlib: Meshlib, plane: ControlPlane, tmp_path: Path) -> Path:
    """A folder with a member's certificate."""
    (tmp_path / "token").write_text(meshlib("token", "create", "--service-account", "reviews").out)
    assert meshlib("cert", "keep", str(tmp_path / "certs"), "--token-file", str(tmp_path / "token"), "--once").code == 0
    return tmp_path / "certs"


def issued(tmp_path: Path, name: str, authority: Any, now: datetime, lifetime: timedelta = HOUR) -> str:
    """A file with a chain of an authority."""
    *chain, _ = authority.issue(new_request().pem, REVIEWS, lifetime, now)
    (tmp_path / name).write_text("".join(chain))
    return str(tmp_path / name)


def test_a_file_is_shown(meshlib: Meshlib, files: Path) -> None:
    """Whose it is, who issued it, until when it is good."""
    result = meshlib("cert", "show", str(files / "cert-chain.pem"))
    assert result.code == 0
    assert REVIEWS in result.out
    (found,) = json.loads(meshlib("cert", "show", str(files / "cert-chain.pem"), "-o", "json").out)["items"]
    assert (found["identity"], found["key"]) == (REVIEWS, "secp256r1")
    assert found["left"].startswith(("23 h", "1 d 0 h"))


def test_a_port_is_shown(meshlib: Meshlib, plane: ControlPlane) -> None:
    """The control plane's own, here; also where a certificate of ours would be asked for."""
    for address in (plane.current.xds, plane.current.xds_mtls):
        result = meshlib("cert", "show", address)
        assert result.code == 0
        assert "meshlib root" in result.out


def test_the_meshs_own_certificate_is_good(meshlib: Meshlib, files: Path) -> None:
    """Without being told the roots: they are those of this user's control plane."""
    result = meshlib("cert", "verify", str(files / "cert-chain.pem"))
    assert result.code == 0
    assert f"{REVIEWS}, good for " in result.out + result.err


@pytest.mark.usefixtures("plane")
def test_what_members_would_refuse_is_told_with_the_reason(meshlib: Meshlib, tmp_path: Path) -> None:
    """Another root, a life that is over, a missing intermediate, a revoked one."""
    now = datetime.now(UTC)
    own, root = open_authority(tmp_path / "data", now), made("Root")
    signs = root.below("Intermediate")
    from meshlib_control.ca_plugged import load

    plugged = load(write(tmp_path / "cacerts", signs, roots=(root,)), now)
    (tmp_path / "root.pem").write_bytes(root.pem)
    good = issued(tmp_path, "good.pem", plugged, now)
    serial = x509.load_pem_x509_certificate(Path(good).read_bytes()).serial_number
    (tmp_path / "crl.pem").write_bytes(signs.revocations(serial))
    (tmp_path / "leaf.pem").write_text(
        Path(good).read_text().partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
    )
    of_the_root = ("--root-cert", str(tmp_path / "root.pem"))
    assert meshlib("cert", "verify", good, *of_the_root).code == 0
    for arguments, words in (
        ((good,), "not one that this root vouches for"),
        ((issued(tmp_path, "old.pem", own, now - timedelta(minutes=1), timedelta(seconds=1)),), "it has expired"),
        ((str(tmp_path / "leaf.pem"), *of_the_root), "not one that this root vouches for"),
        ((good, *of_the_root, "--crl", str(tmp_path / "crl.pem")), "was revoked at"),
    ):
        result = meshlib("cert", "verify", *arguments)
        assert (result.code, words in result.err) == (1, True), result


def test_files_are_replaced_now(meshlib: Meshlib, files: Path, tmp_path: Path) -> None:
    """Key, certificate, roots; the former name of the command works too."""
    before = (files / "key.pem").read_bytes()
    assert meshlib("cert", "rotate", str(files), "--token-file", str(tmp_path / "token")).code == 0
    after = (files / "key.pem").read_bytes()
    assert meshlib("certs", "keep", str(files), "--token-file", str(tmp_path / "token"), "--once").code == 0
    assert len({before, after, (files / "key.pem").read_bytes()}) == 3


@pytest.mark.parametrize("target", ["nothing", "127.0.0.1:none", "127.0.0.1:1"])
def test_what_shows_nothing_is_named(meshlib: Meshlib, target: str) -> None:
    """With something else to try."""
    result = meshlib("cert", "show", target)
    assert result.code != 0
    assert target in result.err
    assert "Try:" in result.err


def test_a_token_that_counts_once_gives_one_certificate(meshlib: Meshlib, plane: ControlPlane, tmp_path: Path) -> None:
    """The second one who shows it reads when it was used."""
    (tmp_path / "token").write_text(meshlib("token", "create", "--once", "--service-account", "reviews").out)
    first, second = (
        meshlib("cert", "keep", str(tmp_path / name), "--token-file", str(tmp_path / "token"), "--once")
        for name in ("mine", "theirs")
    )
    assert (first.code, second.code) == (0, 1)
    assert "the token counts once, and was used at" in second.err
    assert not (tmp_path / "theirs").exists()
