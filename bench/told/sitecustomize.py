"""In a service under measurement: says when a new policy of its own port is in force, in a datagram to the benchmark."""

from __future__ import annotations

import os
import socket
import time

if os.environ.get("MESHLIB_SERVICE") and "BENCH_TELL" in os.environ:
    from meshlib.runtime.control import Control

    _publish = Control._publish
    _told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _address = ("127.0.0.1", int(os.environ["BENCH_TELL"]))

    def publish(self: Control) -> None:
        """As before, then tell; the clock is the machine's, the same in all processes (Linux)."""
        _publish(self)
        for listener in self.snapshot.inbound.values():
            words = (os.environ.get("MESHLIB_INSTANCE", ""), listener.mode.name, str(time.monotonic()))
            _told.sendto(" ".join(words).encode(), _address)

    Control._publish = publish  # type: ignore[method-assign]
