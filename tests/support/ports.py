"""Ports for tests that must know one before a server binds it."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"

# Below what Linux and macOS hand out by themselves: no outgoing connection of another test takes one meanwhile.
PORTS = range(16000, 30000)


def free_port() -> int:
    """A port that nobody listens on now."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port among a hundred")


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port where connections are refused: bound, so that nobody else takes it, and not listened on."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]
