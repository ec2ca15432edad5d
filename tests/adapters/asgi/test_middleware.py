"""MeshMiddleware for ASGI, called as a server calls it."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

import meshlib
from meshlib.errors import SettingsError
from meshlib.facts import Peer
from meshlib_asgi import MeshMiddleware
from tests.support.pki import spiffe
from tests.support.server_folder import mesh_in

CALLER = Peer(spiffe("productpage"), "10.0.0.7:51234", "ab" * 32)


@pytest.fixture
def mesh(tmp_path: Path) -> Any:
    return mesh_in(tmp_path)[0]


def told(mesh: Any) -> list[dict[str, Any]]:
    place = mesh.folder / "events"
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def scope(kind: str = "http", **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "method": "GET",
        "path": "/reviews/0",
        "raw_path": b"/reviews/0",
        "query_string": b"",
        "headers": [(b"host", b"reviews:9080")],
        "extensions": {"meshlib.peer": CALLER},
    } | more


class Wire:
    """A server's side: what it hands to the application and what it was given."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.incoming = list(incoming) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return self.incoming.pop(0) if self.incoming else {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


async def test_the_event_is_told_before_background_tasks_run(mesh: Any) -> None:
    """Starlette runs them after the response, inside the same call: they are not part of the request."""
    before: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)
        before.append(len(told(mesh)))

    await MeshMiddleware(app, mesh)(scope(), Wire().receive, Wire().send)
    assert before == [1]
    assert len(told(mesh)) == 1


async def test_an_outer_middleware_has_the_request_already(mesh: Any) -> None:
    """`meshlib run` wraps a program that wraps itself: one event."""
    await MeshMiddleware(MeshMiddleware(ok, mesh), mesh)(scope(), Wire().receive, Wire().send)
    assert len(told(mesh)) == 1


async def test_a_disabled_mesh_stays_out_of_the_way(mesh: Any) -> None:
    """MESHLIB_ENABLED=0: the application sees the server's own scope, and nothing is told."""
    mesh.settings = replace(mesh.settings, enabled=False)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asked = scope()
    await MeshMiddleware(app, mesh)(asked, Wire().receive, Wire().send)
    assert seen[0] is asked
    assert told(mesh) == []


async def test_strict_denies_what_another_server_let_in(mesh: Any) -> None:
    """A server without MeshProtocol shows plain text only; STRICT is not ignored but answered 403."""
    (mesh.folder / "mode").write_text("STRICT")
    wire = Wire()
    await MeshMiddleware(ok, mesh)(scope(extensions={}, client=("10.0.0.8", 5)), wire.receive, wire.send)
    assert [message.get("status") for message in wire.sent] == [403, None]
    assert told(mesh)[0]["status"] == 403


async def test_a_websocket_has_context_and_peer(mesh: Any) -> None:
    """Accepted: one event with status 101 when it ends."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.append((meshlib.peer(), meshlib.context()))

    wire = Wire({"type": "websocket.connect"})
    await MeshMiddleware(app, mesh)(scope("websocket", scheme="ws"), wire.receive, wire.send)
    assert seen[0][0] == CALLER
    assert seen[0][1] is not None
    assert told(mesh)[0]["status"] == 101


async def test_strict_closes_a_plain_websocket_before_it_is_accepted(mesh: Any) -> None:
    """ASGI: servers answer a close before the accept with 403."""
    (mesh.folder / "mode").write_text("STRICT")
    wire = Wire({"type": "websocket.connect"})
    await MeshMiddleware(ok, mesh)(scope("websocket", extensions={}), wire.receive, wire.send)
    assert [message["type"] for message in wire.sent] == ["websocket.close"]
    assert told(mesh)[0]["status"] == 403


async def test_a_cancelled_request_is_told_as_abandoned(mesh: Any) -> None:
    """The server gave up, or was told to: status 0, DC; the cancellation goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    request = asyncio.create_task(MeshMiddleware(app, mesh)(scope(), Wire().receive, Wire().send))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (told(mesh)[0]["status"], told(mesh)[0]["flags"]) == (0, "DC")


async def test_an_oserror_of_the_application_is_an_error_not_a_departure(mesh: Any) -> None:
    """A file that is missing has nothing to do with the client."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise FileNotFoundError("data.json")

    with pytest.raises(FileNotFoundError):
        await MeshMiddleware(app, mesh)(scope(), Wire().receive, Wire().send)
    assert (told(mesh)[0]["status"], told(mesh)[0]["flags"]) == (500, "-")


async def test_what_is_raised_because_the_client_left_is_told_as_a_departure(mesh: Any) -> None:
    """Starlette raises ClientDisconnect when the body ends too early."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise RuntimeError("client disconnected")

    with pytest.raises(RuntimeError):
        await MeshMiddleware(app, mesh)(scope(), Wire().receive, Wire().send)
    assert (told(mesh)[0]["status"], told(mesh)[0]["flags"]) == (0, "DC")


async def test_nothing_is_left_in_the_servers_context(mesh: Any) -> None:
    """After the request, in the same task, context and peer are what they were."""
    await MeshMiddleware(ok, mesh)(scope(), Wire().receive, Wire().send)
    assert meshlib.context() is None
    assert meshlib.peer() == Peer()


# Lifespan


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    for stage in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{stage}.complete"})


async def test_the_mesh_lives_as_long_as_the_application(mesh: Any) -> None:
    """Started before the application starts, so that it may call others; registered after; closed after its shutdown."""
    mesh.settings = replace(mesh.settings, target_port=9080)
    wire = Wire({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await MeshMiddleware(lifespan, mesh)({"type": "lifespan"}, wire.receive, wire.send)
    assert {path.suffix for path in mesh.folder.glob("[0-9]*.*[ed]")} >= {".started", ".served", ".closed"}
    assert next(mesh.folder.glob("*.served")).read_text() == ":9080"


async def test_wrong_settings_fail_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception would tell the server "no lifespan" and it would go on; the message says what to set."""

    def wrong() -> Any:
        raise SettingsError("MESHLIB_PORT is 'x': write a number, as in 9080")

    monkeypatch.setattr(meshlib, "default", wrong, raising=False)
    wire = Wire({"type": "lifespan.startup"})
    await MeshMiddleware(lifespan)({"type": "lifespan"}, wire.receive, wire.send)
    assert [message["type"] for message in wire.sent] == ["lifespan.startup.failed"]
    assert "MESHLIB_PORT" in wire.sent[0]["message"]


@pytest.mark.parametrize("outermost", [True, False])
async def test_a_base_http_middleware_outside_is_warned_of(
    mesh: Any, caplog: pytest.LogCaptureFixture, outermost: bool
) -> None:
    """It breaks context variables; the warning says how to add ours."""
    dispatch: Any = ok  # never called: no request is made
    ours, other = Middleware(MeshMiddleware, mesh=mesh), Middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app = Starlette(middleware=[ours, other] if outermost else [other, ours])
    wire = Wire({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    with caplog.at_level(logging.WARNING, "meshlib.asgi"):
        await app({"type": "lifespan", "state": {}}, wire.receive, wire.send)
    assert ("BaseHTTPMiddleware is outside MeshMiddleware" in caplog.text) is not outermost
