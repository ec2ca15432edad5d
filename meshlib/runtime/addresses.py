"""Addresses: which of the ports that listen is the service's, and where others reach it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from typing import Protocol

from meshlib.runtime.settings import Settings

ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 (recognised, not bound)

_log = logging.getLogger("meshlib")


class Serving(Protocol):
    """The mesh as server adapters need it here."""

    @property
    def settings(self) -> Settings:
        """What the operator said."""

    def start(self) -> None:
        """Take part."""

    def serve(self, port: int, address: str = "") -> None:
        """Announce that a server of ours listens."""


def announce(mesh: Serving, listeners: Iterable[tuple[str, int]]) -> None:
    """Join and register the first of the ports that listen; with MESHLIB_TARGET_PORT set, that port only.

    Args:
        listeners: address and port of each TCP socket that listens.
    """
    if not mesh.settings.enabled:
        return
    mesh.start()
    listening = list(listeners)
    only = mesh.settings.target_port
    chosen = next((pair for pair in listening if only in (0, pair[1])), None)
    if chosen is not None:
        mesh.serve(chosen[1], chosen[0])
    elif listening:
        _log.info("meshlib: port %d is not registered: MESHLIB_TARGET_PORT is %d", listening[0][1], only)


def own_address(settings: Settings) -> str:
    """The IP address that others reach us under: the one that the way to the control plane starts from."""
    if settings.address:
        return settings.address
    host, _, port = settings.control_plane.rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing: it only picks the way
            return str(probe.getsockname()[0])
    except OSError as error:
        _log.debug("meshlib: own address unknown, taking loopback: %s", error)
        return "127.0.0.1"


def reachable(listening: str, own: str) -> str:
    """Where others reach a server.

    Args:
        listening: the address that it was bound to.
        own: ours, for a server that listens everywhere.
    """
    if listening in ANYWHERE:
        return own
    return "127.0.0.1" if listening == "localhost" else listening
