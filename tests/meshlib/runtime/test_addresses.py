"""Which port is the service's, and where others reach it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from meshlib.runtime.addresses import announce, own_address, reachable
from meshlib.runtime.settings import Settings


class Told:
    """A mesh that remembers what it was told."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.told: list[object] = []

    def start(self) -> None:
        self.told.append("start")

    def serve(self, port: int, address: str = "") -> None:
        self.told.append((address, port))


BOTH = (("127.0.0.1", 9080), ("10.0.0.1", 9081))


@pytest.mark.parametrize(
    ("settings", "listening", "told"),
    [
        (Settings(), BOTH, ["start", ("127.0.0.1", 9080)]),
        (Settings(target_port=9081), BOTH, ["start", ("10.0.0.1", 9081)]),
        (Settings(target_port=15090), BOTH, ["start"]),
        (Settings(), (), ["start"]),
        (Settings(enabled=False), BOTH, []),
    ],
)
def test_one_port_is_the_services(settings: Settings, listening: Iterable[tuple[str, int]], told: list[object]) -> None:
    """The first, or the configured one, or none; who only calls others joins all the same."""
    mesh = Told(settings)
    announce(mesh, iter(listening))
    assert mesh.told == told


def test_a_port_that_is_not_registered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """With the setting that keeps it out."""
    caplog.set_level(logging.INFO, "meshlib")
    announce(Told(Settings(target_port=15090)), BOTH)
    assert "port 9080 is not registered: MESHLIB_TARGET_PORT is 15090" in caplog.text


@pytest.mark.parametrize(
    ("listening", "found"),
    [("", "10.0.0.9"), ("0.0.0.0", "10.0.0.9"), ("::", "10.0.0.9"), ("localhost", "127.0.0.1"), ("10.0.0.1", "10.0.0.1")],
)
def test_where_a_server_is_reached(listening: str, found: str) -> None:
    """Where it is bound; who is bound everywhere, at our own address."""
    assert reachable(listening, "10.0.0.9") == found


def test_own_address() -> None:
    """What was set; else where the way to the control plane starts; else loopback."""
    assert own_address(Settings(address="10.1.2.3")) == "10.1.2.3"
    assert own_address(Settings(control_plane="127.0.0.1:15012")) == "127.0.0.1"
    assert own_address(Settings(control_plane="no.such.host.invalid:15012")) == "127.0.0.1"
