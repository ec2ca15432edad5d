"""TCP keepalive of a connection, as far as the operating system knows it."""

from __future__ import annotations

import socket

from meshlib.config.protection import ConnectionPolicy

# macOS calls the first one TCP_KEEPALIVE.
_OPTIONS = {"probes": ("TCP_KEEPCNT",), "idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"), "interval": ("TCP_KEEPINTVL",)}


def keep_alive(sock: socket.socket, policy: ConnectionPolicy | None) -> None:
    """Probe a silent connection, if its cluster asks for it."""
    keepalive = policy.keepalive if policy is not None else None
    if keepalive is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, options in _OPTIONS.items():
        value = getattr(keepalive, name)
        option = next((getattr(socket, option) for option in options if hasattr(socket, option)), None)
        if value is not None and option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
