"""When each step of a root's replacement is taken, and who is waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshlib.errors import SettingsError
from meshlib_control.ca_roots import Phase, open_roots
from meshlib_control.ca_rotation import Rotation
from meshlib_control.model import Node
from meshlib_control.trust import KnownFiles, missing, roots_version
from meshlib_control.xds.exchange import SyncState

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
LIFE = timedelta(hours=1)
VERSION = roots_version(b"new")


class Mesh:
    """A rotation, the clock, and who is missing."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.missing: list[str] = []
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        self.rotation = Rotation(open_roots(self.folder, self.now), lambda: list(self.missing), lambda: self.now)

    @property
    def phase(self) -> Phase:
        return self.rotation.kept.roots.phase


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def test_nothing_happens_unasked(mesh: Mesh) -> None:
    """A steady mesh stays so."""
    assert not mesh.rotation.step()
    assert mesh.phase is Phase.STEADY


def test_the_switch_waits_for_everybody(mesh: Mesh) -> None:
    """Who is missing is told."""
    mesh.missing = ["reviews-v1", "details-v1"]
    mesh.rotation.begin()
    assert not mesh.rotation.step()
    assert mesh.rotation.status()["waitingFor"] == ["details-v1", "reviews-v1"]
    mesh.missing = []
    assert mesh.rotation.step()
    assert mesh.phase is Phase.RETIRING


def test_the_old_root_goes_when_its_last_certificate_is_over(mesh: Mesh) -> None:
    """Not a second before."""
    mesh.rotation.kept.granted(LIFE)
    mesh.rotation.begin()
    assert mesh.rotation.step()
    mesh.now = START + LIFE
    assert not mesh.rotation.step()
    mesh.now += timedelta(seconds=1)
    assert mesh.rotation.step()
    assert mesh.phase is Phase.STEADY


def test_a_restart_goes_on_where_it_was(mesh: Mesh) -> None:
    """In each state."""
    mesh.rotation.kept.granted(LIFE)
    mesh.rotation.begin()
    for phase in (Phase.DISTRIBUTING, Phase.RETIRING):
        mesh.restart()
        assert mesh.phase is phase
        mesh.now += 2 * LIFE
        assert mesh.rotation.step()
    assert mesh.phase is Phase.STEADY


def test_hurrying_takes_one_step_without_waiting(mesh: Mesh) -> None:
    """Each one must be asked for."""
    mesh.missing = ["reviews-v1"]
    mesh.rotation.kept.granted(LIFE)
    mesh.rotation.begin()
    assert mesh.rotation.step(hurry=True)
    assert mesh.phase is Phase.RETIRING
    assert mesh.rotation.step(hurry=True)
    assert mesh.phase is Phase.STEADY
    assert not mesh.rotation.step(hurry=True)


def test_who_begins_twice_is_told(mesh: Mesh) -> None:
    """And nothing changes."""
    mesh.missing = ["reviews-v1"]
    mesh.rotation.begin()
    with pytest.raises(SettingsError, match="already"):
        mesh.rotation.begin()
    assert mesh.phase is Phase.DISTRIBUTING


def node(kind: str, name: str = "one") -> Node:
    return Node(
        id=f"{kind}~{name}", kind=kind, instance=name, namespace="default", service_account="a", spiffe_id="spiffe://a"
    )


@pytest.mark.parametrize(
    ("kind", "state", "files", "has"),
    [
        ("library", SyncState.SYNCED, None, True),
        ("library", SyncState.STALE, None, False),
        ("library", SyncState.NACK, None, False),
        ("library", SyncState.NOT_SENT, None, False),
        ("library", SyncState.SYNCED, "old", True),  # what its certificate brought is older than what the stream did
        ("library", SyncState.STALE, VERSION, False),
        ("library", None, VERSION, True),  # a client of an earlier version
        ("library", None, "old", False),
        ("library", None, None, False),
        ("grpc", None, VERSION, True),
        ("grpc", None, "old", False),
        ("grpc", None, None, False),
        ("envoy", SyncState.SYNCED, VERSION, True),
        ("envoy", SyncState.SYNCED, "old", False),  # it could not get to the control plane any more
        ("envoy", SyncState.STALE, VERSION, False),
        ("envoy", SyncState.SYNCED, None, True),  # its agent asks nobody here
        ("envoy", None, VERSION, True),
    ],
)
def test_who_has_the_roots(kind: str, state: SyncState | None, files: str | None, has: bool) -> None:
    """By what it acknowledged on its stream, and by what its keeper said of the files."""
    known = KnownFiles()
    if files:
        known.note("spiffe://a", "one", files)
    assert list(missing([(node(kind), state)], [], known, VERSION)) == ([] if has else ["one"])


def test_who_is_expected_back_is_waited_for() -> None:
    """After a restart: it is there, only not yet."""
    back, away = node("library", "back"), node("library", "away")
    assert list(missing([(back, SyncState.SYNCED)], [back, away], KnownFiles(), VERSION)) == ["away"]


def test_files_of_a_process_that_gives_no_name_count_for_its_identity() -> None:
    """As for `ps`."""
    known = KnownFiles()
    known.note("spiffe://a", "", VERSION)
    assert list(missing([(node("grpc"), None)], [], known, VERSION)) == []
