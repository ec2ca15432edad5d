"""The two calls that are compared, and the servers they go to."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography import x509

from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe

CLIENT, SERVER = "productpage", "reviews"


@dataclass(frozen=True)
class Server:
    """A server process."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """What it used so far, of all cores."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    with (
        tempfile.TemporaryDirectory() as name,
        _process("plain", authority, name) as plain,
        _process("meshed", authority, name) as meshed,
    ):
        mesh = LocalMesh(authority, CLIENT, keep_events=False)
        one = endpoint(meshed.port, tls=True)
        endpoints, weights = {"v1": [one], "v2": [one]}, {"v1": 80, "v2": 20}
        mesh.know(destination("reviews:9080", endpoints, weights=weights, timeout=10.0, sans=[spiffe(SERVER)]))
        yield Scene(plain, meshed, mesh, context)


@contextmanager
def _process(kind: str, authority: Authority, folder: str) -> Iterator[Server]:
    home = Path(folder, kind)
    home.mkdir()
    leaf = authority.issue(SERVER, names=(x509.DNSName("localhost"),))
    (home / "leaf.pem").write_bytes(leaf.chain)
    (home / "key.pem").write_bytes(leaf.key)
    (home / "root.pem").write_bytes(authority.root)
    command = [sys.executable, "-m", "bench.server", kind, str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        process.wait(10)
