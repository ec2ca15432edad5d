"""WebSockets behind MeshProtocol: uvicorn makes scopes of their own for them, and policy must know the peer there, too."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlib_asgi import MeshMiddleware, MeshProtocol
from tests.support.pki import Authority, spiffe
from tests.support.rbac import ANY, rules
from tests.support.server_folder import mesh_in
from tests.support.server_thread import serving, talk

HELLO = b"GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Handshakes(asyncio.Protocol):
    """The shape of uvicorn's WebSocket protocols, as far as it matters here; it answers with what was sent to it."""

    def __init__(self, config: Any, server_state: Any, app_state: Any) -> None:
        self.app = config.loaded_app

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        headers = [(b"host", b"reviews")]
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"",
            "headers": headers,
        }
        asyncio.get_running_loop().create_task(self._run(scope | {"extensions": {"websocket.http.response": {}}}))

    async def _run(self, scope: dict[str, Any]) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            self.transport.write(json.dumps(message).encode())
            self.transport.close()

        await self.app(scope, receive, send)


async def chat(scope: Any, receive: Any, send: Any) -> None:
    """Tells who is there."""
    peer = scope["extensions"]["meshlib.peer"].spiffe_id
    await send({"type": "websocket.accept", "subprotocol": peer, "known": sorted(scope["extensions"])})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, Authority, int]]:
    mesh, authority = mesh_in(tmp_path)
    with serving(MeshMiddleware(chat, mesh), MeshProtocol.serving(mesh), ws=Handshakes) as port:
        yield mesh, authority, port


def answer(authority: Authority, port: int, *, tls: bool) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port)) as plain:
        if not tls:
            return dict(json.loads(talk(plain, [HELLO])))
        context: ssl.SSLContext = authority.client_context(authority.issue("productpage"))
        with context.wrap_socket(plain, server_hostname="reviews") as secured:
            return dict(json.loads(talk(secured, [HELLO])))


def test_the_application_knows_the_peer(served: tuple[Any, Authority, int]) -> None:
    """As for every other request; what uvicorn's protocol says stays."""
    _, authority, port = served
    found = answer(authority, port, tls=True)
    assert found["subprotocol"] == spiffe("productpage")
    assert "websocket.http.response" in found["known"]
    assert answer(authority, port, tls=False)["subprotocol"] == ""


def test_a_policy_about_the_peer_is_obeyed(served: tuple[Any, Authority, int]) -> None:
    """Who is denied by name cannot come in by asking for a WebSocket."""
    mesh, authority, port = served
    who = {"authenticated": {"principal_name": {"exact": spiffe("productpage")}}}
    (mesh.folder / "policy").write_text(json.dumps([{"rules": rules("DENY", one=(ANY, who))}]))
    assert answer(authority, port, tls=True)["type"] == "websocket.close"
    assert answer(authority, port, tls=False)["type"] == "websocket.accept"


def test_strict_lets_members_in_only(served: tuple[Any, Authority, int]) -> None:
    """A WebSocket over mutual TLS is one of a member."""
    mesh, authority, port = served
    (mesh.folder / "mode").write_text("STRICT")
    assert answer(authority, port, tls=True)["type"] == "websocket.accept"
