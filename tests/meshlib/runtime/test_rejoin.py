"""A process that has joined goes on with its certificate: over real gRPC and TLS."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.snapshot import Destination
from meshlib.runtime.events import State
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from meshlib_control.ca import open_authority
from tests.support.waiting import becomes

MakeMesh = Callable[..., Mesh]


def live(mesh: Mesh) -> bool:
    return mesh._parts is not None and mesh._parts.control.state is State.LIVE


def test_the_token_is_shown_until_there_is_a_certificate(control_plane: Any, make_mesh: MakeMesh) -> None:
    """The token joins; renewals go on after it has expired, each with the certificate before."""
    mesh = make_mesh(certificate_lifetime=2)
    mesh.start()
    assert mesh.certificates.wait(5)
    control_plane.token = "another one by now"
    assert becomes(lambda: mesh.certificates.generation >= 3, 8)
    assert mesh.problem is None
    assert "certificate" in control_plane.shown


def test_a_stream_is_opened_again_with_the_certificate(control_plane: Any, make_mesh: MakeMesh) -> None:
    """The control plane is restarted long after the token expired."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = make_mesh()
    assert isinstance(mesh.resolve("ratings:9080"), Destination)
    assert mesh.certificates.wait(5)
    control_plane.token = "another one by now"
    control_plane.stop()
    control_plane.shown.clear()
    assert becomes(lambda: not live(mesh))
    control_plane.start()
    assert becomes(lambda: live(mesh))
    assert set(control_plane.shown) == {"certificate"}


def test_a_control_plane_with_a_new_root(
    control_plane: Any, settings: Settings, make_mesh: MakeMesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Installed anew, it does not know our certificate: the token, tried next, opens the stream and gets another at once."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = make_mesh()
    assert isinstance(mesh.resolve("ratings:9080"), Destination)
    assert mesh.certificates.wait(5)
    control_plane.stop()
    assert becomes(lambda: not live(mesh))
    control_plane.authority = open_authority(tmp_path / "new", datetime.now(UTC))
    Path(settings.root_cert).write_bytes(control_plane.authority.roots_pem)
    control_plane.shown.clear()
    control_plane.start()
    assert becomes(lambda: live(mesh), 10)
    assert becomes(lambda: mesh.certificates.generation == 2)
    identity = mesh.certificates.identity
    assert identity is not None
    assert identity.roots.encode() == control_plane.authority.roots_pem
    assert control_plane.shown[0] == "certificate"
    assert "token" in control_plane.shown
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
