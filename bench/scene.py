"""The two calls that are compared, and the servers they go to."""

from __future__ import annotations

import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography import x509

from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, Leaf, spiffe

CLIENT, SERVER = "productpage", "reviews"


@dataclass(frozen=True)
class Server:
    """A server process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """What it used so far, of all cores."""
        # clock_getcpuclockid(3): nanoseconds, where /proc counts in hundredths of a second.
        return time.clock_gettime(~self.pid << 3 | 2)


@dataclass(frozen=True)
class Scene:
    """Both servers, and what clients need to reach them."""

    plain: Server
    meshed: Server
    mesh: LocalMesh
    context: ssl.SSLContext

    def server(self, variant: str) -> Server:
        """The server that a variant talks to."""
        return self.meshed if variant == "meshed" else self.plain

    def client(self, variant: str, library: ModuleType, transports: Any) -> tuple[Any, str]:
        """A client of the library, and the URL to get."""
        if variant == "meshed":
            return library.AsyncClient(transport=transports.AsyncMeshTransport(self.mesh)), "http://reviews:9080/"
        return library.AsyncClient(verify=self.context), f"https://127.0.0.1:{self.plain.port}/"


@contextmanager
def scene() -> Iterator[Scene]:
    """Start both servers, with certificates of one authority."""
    authority = Authority()
    context = authority.client_context(authority.issue(CLIENT))
    context.set_alpn_protocols(["http/1.1"])
    leaf = authority.issue(SERVER, names=(x509.DNSName("localhost"),))
    with (
        tempfile.TemporaryDirectory() as name,
        process("bench.server", ("plain",), leaf, authority, f"{name}/plain") as plain,
        process("bench.server", ("meshed",), leaf, authority, f"{name}/meshed") as meshed,
    ):
        mesh = LocalMesh(authority, CLIENT, keep_events=False)
        one = endpoint(meshed.port, tls=True)
        endpoints, weights = {"v1": [one], "v2": [one]}, {"v1": 80, "v2": 20}
        mesh.know(destination("reviews:9080", endpoints, weights=weights, timeout=10.0, sans=[spiffe(SERVER)]))
        yield Scene(plain, meshed, mesh, context)


@contextmanager
def process(module: str, arguments: tuple[str, ...], leaf: Leaf, authority: Authority, folder: str) -> Iterator[Server]:
    """Run `python -m module arguments folder`, whose first line on standard output is its port.

    Args:
        folder: to make, with the server's certificate in it.
    """
    home = Path(folder)
    home.mkdir()
    (home / "leaf.pem").write_bytes(leaf.chain)
    (home / "key.pem").write_bytes(leaf.key)
    (home / "root.pem").write_bytes(authority.root)
    command = [sys.executable, "-m", module, *arguments, folder]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield Server(int(running.stdout.readline()), running.pid)
    finally:
        running.terminate()
        running.wait(10)
