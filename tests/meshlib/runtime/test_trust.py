"""Whom a process trusts while roots are replaced: what it takes from a stream, from files, from its certificates."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.messages import message, pack, type_url
from meshlib.errors import ControlPlaneError, IdentityError, SettingsError
from meshlib.runtime.ca import renewal_spread
from meshlib.runtime.certificate_files import CertificateFolder, CertificateKeeper
from meshlib.runtime.certificates import Certificates, identity_of
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust, roots_of
from tests.support.destinations import Clock, Dice
from tests.support.pki import Authority
from tests.support.waiting import becomes

SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"
REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"


@pytest.fixture(scope="module")
def old() -> Authority:
    return Authority("old root")


@pytest.fixture(scope="module")
def new() -> Authority:
    return Authority("new root")


def member(authority: Authority) -> Certificates:
    certificates = Certificates()
    leaf = authority.issue()
    certificates.install(identity_of([leaf.chain.decode(), authority.root.decode()], leaf.key))
    return certificates


def pem(*authorities: Authority) -> str:
    return b"".join(one.root for one in authorities).decode()


class Told:
    """A process that has joined, and how often it was told to renew."""

    def __init__(self, certificates: Certificates, root_cert: Callable[[], bytes | None] = lambda: b"file") -> None:
        self.renewals = 0
        self.certificates = certificates
        self.trust = Trust(root_cert, certificates, self.renew)

    def renew(self) -> None:
        self.renewals += 1

    @property
    def roots(self) -> str:
        assert self.certificates.identity is not None
        return self.certificates.identity.roots


def secret(roots: str, name: str = "ROOTCA") -> Any:
    return message(SECRET)(name=name, validation_context={"trusted_ca": {"inline_string": roots}})


def response(*secrets: Any, nonce: str = "7", kind: str = SECRET) -> bytes:
    found = message(RESPONSE)(type_url=type_url(kind), nonce=nonce)
    for one in secrets:
        found.resources.add(name=one.name, version="1").resource.CopyFrom(pack(one))
    return bytes(found.SerializeToString())


def answered(told: Told, raw: bytes) -> Any:
    answer = told.trust.answer(raw)
    assert answer is not None
    return message(REQUEST).FromString(answer)


def test_a_second_root_is_trusted_and_nothing_is_renewed(old: Authority, new: Authority) -> None:
    """The one that signs is still the first. New contexts, the same leaf, acknowledged."""
    told = Told(member(old))
    leaf = told.certificates.identity.leaf  # type: ignore[union-attr]
    answer = answered(told, response(secret(pem(old, new))))
    assert (answer.type_url, answer.response_nonce, answer.error_detail.message) == (type_url(SECRET), "7", "")
    assert told.roots == pem(old, new)
    assert told.certificates.generation == 2
    assert told.certificates.identity.leaf == leaf  # type: ignore[union-attr]
    assert told.renewals == 0


def test_another_first_root_is_the_sign_to_renew(old: Authority, new: Authority) -> None:
    """Once."""
    told = Told(member(old))
    for _ in range(2):
        answered(told, response(secret(pem(new, old))))
    assert told.renewals == 1
    assert told.certificates.generation == 2


def test_the_same_roots_change_nothing(old: Authority) -> None:
    """After each reconnect they come again: connections need not be opened anew."""
    told = Told(member(old))
    answered(told, response(secret(pem(old))))
    assert told.certificates.generation == 1


def test_a_process_without_a_certificate_acknowledges(old: Authority) -> None:
    """Its first one will bring roots of its own."""
    told = Told(Certificates())
    assert not answered(told, response(secret(pem(old)))).error_detail.message
    assert told.certificates.identity is None


@pytest.mark.parametrize("roots", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_are_no_roots_is_rejected(old: Authority, roots: str) -> None:
    """With a reason; the old ones stay."""
    told = Told(member(old))
    assert answered(told, response(secret(roots))).error_detail.message
    assert told.roots == pem(old)


@pytest.mark.parametrize("raw", [b"", b"\xff\xff", response(kind="envoy.config.cluster.v3.Cluster")])
def test_other_responses_are_left_to_others(old: Authority, raw: bytes) -> None:
    """Broken ones, too."""
    assert Told(member(old)).trust.answer(raw) is None


def test_a_cluster_that_names_the_type_is_left_to_others(old: Authority) -> None:
    """Only the response's own type counts."""
    found = message(RESPONSE)(type_url=type_url("envoy.config.cluster.v3.Cluster"))
    found.resources.add(name=type_url(SECRET))
    assert Told(member(old)).trust.answer(found.SerializeToString()) is None


def test_other_secrets_are_passed_over(old: Authority, new: Authority) -> None:
    """Nobody asked for them."""
    told = Told(member(old))
    assert not answered(told, response(secret(pem(new), name="default"))).error_detail.message
    assert told.roots == pem(old)


def test_bytes_that_are_no_secret() -> None:
    """Refused as what they are."""
    with pytest.raises(IdentityError, match="no secret"):
        roots_of(b"\xff\xff\xff")


def test_the_control_plane_is_proven_by_the_file_and_by_what_the_mesh_trusts(old: Authority, new: Authority) -> None:
    """The file alone until there is a certificate; with it, a file that has grown old or is gone does no harm."""

    def gone() -> bytes:
        raise SettingsError("no such file")

    assert Told(Certificates(), lambda: old.root).trust.control_plane_roots() == old.root
    assert Told(member(new), lambda: old.root).trust.control_plane_roots() == old.root + b"\n" + new.root
    assert Told(member(new), gone).trust.control_plane_roots() == b"\n" + new.root
    assert Told(member(new), lambda: None).trust.control_plane_roots() is None
    with pytest.raises(SettingsError):
        Told(Certificates(), gone).trust.control_plane_roots()


def test_renewals_of_a_whole_mesh_are_spread(old: Authority) -> None:
    """A tenth of a life, here of 65 minutes, and at most a minute."""
    assert renewal_spread(member(old)) == 60.0
    assert renewal_spread(Certificates()) == 0.0


def test_a_renewal_that_comes_meanwhile_is_not_undone(old: Authority, new: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """While contexts for other roots are made, another thread installs the next certificate: that one gets the roots."""
    from meshlib.runtime import certificates as module

    mine, renewed = member(old), member(old).identity
    assert renewed is not None
    make = module._context

    def slow(*arguments: Any) -> Any:
        if mine.generation == 1:
            monkeypatch.setattr(module, "_context", make)
            mine.install(renewed)
        return make(*arguments)

    monkeypatch.setattr(module, "_context", slow)
    mine.trust(pem(old, new))
    assert mine.generation == 3
    assert mine.identity is not None
    assert (mine.identity.leaf, mine.identity.roots) == (renewed.leaf, pem(old, new))


# Over real gRPC and TLS


def test_a_mesh_follows_the_roots_on_its_stream(control_plane: Any, make_mesh: Callable[..., Mesh], new: Authority) -> None:
    """A second root comes: trusted. It comes first: a new certificate is asked for."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = make_mesh(certificate_lifetime=20)
    mesh.resolve("ratings:9080")
    assert mesh.certificates.wait(5)
    own, other = control_plane.authority.roots_pem.decode(), new.root.decode()
    control_plane.push_roots(own + other)
    assert becomes(lambda: mesh.certificates.identity and mesh.certificates.identity.roots == own + other)
    leaf = mesh.certificates.identity.leaf  # type: ignore[union-attr]
    control_plane.push_roots(other + own)
    assert becomes(lambda: mesh.certificates.identity and mesh.certificates.identity.leaf != leaf)


class Asked(Clock):
    """A keeper whose CA is here, on a clock of the test's."""

    def __init__(self, folder: Path, authority: Authority, lifetime: int = 3600) -> None:
        super().__init__(time.time())
        self.folder = CertificateFolder(folder)
        self.keeper = CertificateKeeper(Settings(certificate_lifetime=lifetime), self.folder, self, Dice(0.5))
        self.held: list[str] = []
        self.given: tuple[str, str] | ControlPlaneError = ("", "")
        self.keeper._authority.roots = self._roots  # type: ignore[method-assign]
        self.keeper._certificates.install(member(authority).identity)  # type: ignore[arg-type]
        self.keeper._source._due = self.now + lifetime / 2

    def _roots(self, held: str, timeout: float = 10.0) -> tuple[str, str]:
        self.held.append(held)
        if isinstance(self.given, ControlPlaneError):
            raise self.given
        return self.given


def test_a_keeper_of_files_asks_now_and_then(tmp_path: Path, old: Authority, new: Authority) -> None:
    """Once a minute; what it is given goes into the files, and the next time it says that it has that."""
    clock = Asked(tmp_path / "certs", old)
    clock.given = (pem(old, new), "version 2")
    assert clock.keeper.step() <= 60.0  # not until the next renewal: the roots may change before
    assert clock.held == []
    clock.now += 60
    clock.keeper.step()
    assert clock.folder.roots.read_text() == pem(old, new)
    clock.now += 60
    clock.keeper.step()
    assert clock.held == ["", "version 2"]


def test_a_keeper_renews_when_another_root_signs(tmp_path: Path, old: Authority, new: Authority) -> None:
    """Within a minute, at a moment of its own."""
    clock = Asked(tmp_path / "certs", old)
    clock.given = (pem(new, old), "version 3")
    clock.now += 60
    clock.keeper.step()
    assert clock.keeper._source._left() == 30.0  # the dice say half of the minute


def test_a_control_plane_that_does_not_answer_changes_nothing(tmp_path: Path, old: Authority) -> None:
    """It may be away, or another one than ours: certificates bring roots as well."""
    clock = Asked(tmp_path / "certs", old)
    clock.given = ControlPlaneError("UNIMPLEMENTED")
    clock.now += 60
    clock.keeper.step()
    assert clock.held == [""]
    assert clock.folder.roots.read_text() == pem(old)
