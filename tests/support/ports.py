"""Ports for tests that must know one before a server binds it."""

from __future__ import annotations

import random
import socket

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
