"""A real Redis on a free port of loopback: Debian's redis-server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.ports import free_port


def binary() -> str | None:
    """Where redis-server is; None: it is not installed."""
    return shutil.which("redis-server")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Redis meanwhile, without files; gives its address as `redis://`."""
    port = free_port()
    command = [str(binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen([*command, "--dir", str(folder)], stdout=log, stderr=log)
    try:
        _wait(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("redis-server did not start")
