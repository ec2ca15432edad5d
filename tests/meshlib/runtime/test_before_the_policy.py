"""Servers of every kind, and a control plane that answers late, sends what is refused, is away, or left something on disk."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import grpc
import pytest

from meshlib.config.messages import message, pack
from meshlib.config.subscription import Kind
from meshlib.runtime import control, own_port
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.own_port import Undecided
from meshlib_asgi import MeshMiddleware as AsgiMiddleware
from meshlib_wsgi import MeshMiddleware as WsgiMiddleware
from tests.meshlib.runtime.conftest import HCM
from tests.support.grpc_echo import Echo
from tests.support.ports import refusing_port
from tests.support.waiting import becomes

MakeMesh = Callable[..., Mesh]
PORT = 43210


def listener(port: int, *filters: dict[str, Any]) -> Any:
    """Plain text and mutual TLS, and these filters."""
    manager = message(HCM)(http_filters=filters)
    chain = {"filters": [{"name": "hcm", "typed_config": pack(manager)}]}
    name = f"xds.istio.io/grpc/lds/inbound/127.0.0.1:{port}"
    return message("envoy.config.listener.v3.Listener")(name=name, filter_chains=[chain])


def router() -> dict[str, Any]:
    return {"name": "router", "typed_config": pack(message("envoy.extensions.filters.http.router.v3.Router")())}


def deny_all() -> dict[str, Any]:
    """ALLOW with no policy."""
    rbac = message("envoy.extensions.filters.http.rbac.v3.RBAC")(rules={"action": "ALLOW"})
    return {"name": "rbac", "typed_config": pack(rbac)}


def unknown() -> dict[str, Any]:
    """A filter that the library does not have."""
    return {"name": "lua", "typed_config": pack(message("google.protobuf.Struct")())}


class Server:
    """One kind of server on a mesh; `ask` is a plain text request: `ok`, or how it was refused."""

    port = PORT

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def __enter__(self) -> Server:
        self.mesh.serve(PORT, "127.0.0.1")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self) -> str:
        raise NotImplementedError


class Asgi(Server):
    def ask(self) -> str:
        sent: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"reviews")],
        }
        asyncio.run(AsgiMiddleware(app, self.mesh)(scope, receive, send))
        return _words(sent[0]["status"])


class Wsgi(Server):
    def ask(self) -> str:
        told: list[str] = []

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            told.append(status)

        def app(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [])
            return [b""]

        environ: dict[str, Any] = {"wsgi.input": io.BytesIO()}
        setup_testing_defaults(environ)
        body: Any = WsgiMiddleware(app, self.mesh)(environ, start)
        list(body)
        body.close()
        return _words(int(told[0][:3]))


class Grpc(Server):
    api = "sync"

    def __enter__(self) -> Server:
        self.echo = Echo("v1", self.mesh, self.api)  # type: ignore[arg-type]
        self.echo.__enter__()
        self.port = self.echo.port
        return self

    def __exit__(self, *_: object) -> None:
        self.echo.__exit__()

    def ask(self) -> str:
        with grpc.insecure_channel(f"ipv4:127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                channel.unary_unary("/test.Echo/One")(b"echo", timeout=20)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "ok"


class GrpcAio(Grpc):
    api = "aio"


def _words(status: int) -> str:
    return {200: "ok", 403: "PERMISSION_DENIED", 503: "UNAVAILABLE"}[status]


@pytest.fixture(params=[Asgi, Wsgi, Grpc, GrpcAio])
def kind(request: pytest.FixtureRequest) -> type[Server]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses patience, however busy the machine is."""
    monkeypatch.setattr(control, "PATIENCE", 60.0)
    monkeypatch.setattr(own_port, "LONGEST_WAIT", 60.0)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody answers."""
    with refusing_port() as port:
        yield f"127.0.0.1:{port}"


def asking(server: Server) -> tuple[threading.Thread, list[str]]:
    """A request on its way, and where its answer will be."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(server.ask()))
    thread.start()
    return thread, answers


@pytest.mark.usefixtures("patient")
def test_a_request_waits_for_the_policy(control_plane: Any, make_mesh: MakeMesh, kind: type[Server]) -> None:
    """The control plane answers late: nobody enters before, and the policy holds for the first one already."""
    control_plane.silent = True
    mesh = make_mesh()
    with kind(mesh) as server:
        assert isinstance(mesh.inbound, Undecided)
        request, answers = asking(server)
        request.join(0.3)
        assert not answers
        control_plane.silent = False
        control_plane.put(Kind.LISTENER, listener(server.port, deny_all(), router()))
        request.join(30)
        assert answers == ["PERMISSION_DENIED"]
        control_plane.put(Kind.LISTENER, listener(server.port, router()))
        assert becomes(lambda: server.ask() == "ok")


@pytest.mark.usefixtures("patient")
def test_a_refused_policy_lets_nobody_in(
    control_plane: Any, make_mesh: MakeMesh, kind: type[Server], caplog: pytest.LogCaptureFixture
) -> None:
    """The first one is refused: everybody is. A later one is: the last good one stays."""
    control_plane.silent = True
    with kind(make_mesh()) as server:
        control_plane.silent = False
        control_plane.put(Kind.LISTENER, listener(server.port, unknown(), router()))
        assert server.ask() == "UNAVAILABLE"
        assert "refuses every request: its first policy was refused" in caplog.text
        assert control_plane.wait_for(lambda: bool(control_plane.nacks)), "`meshlib ps` shows what was refused"
        control_plane.put(Kind.LISTENER, listener(server.port, router()))
        assert becomes(lambda: server.ask() == "ok")
        control_plane.put(Kind.LISTENER, listener(server.port, unknown(), router()))
        assert control_plane.wait_for(lambda: len(control_plane.nacks) == 2)
        assert server.ask() == "ok"


@pytest.mark.parametrize(("strict", "expected"), [(False, "ok"), (True, "UNAVAILABLE")])
def test_the_control_plane_is_away_and_nothing_is_cached(
    make_mesh: MakeMesh, kind: type[Server], nobody: str, monkeypatch: pytest.MonkeyPatch, strict: bool, expected: str
) -> None:
    """Everybody enters; with MESHLIB_STRICT nobody does."""
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    monkeypatch.setattr(Mesh, "start", lambda mesh: None)  # strict would refuse to start: here it came so far
    with kind(make_mesh(control_plane=nobody, strict=strict)) as server:
        assert server.ask() == expected


def test_a_port_that_the_control_plane_does_not_know(control_plane: Any, make_mesh: MakeMesh, kind: type[Server]) -> None:
    """Nobody enters: who may is not known."""
    with kind(make_mesh()) as server:
        assert server.ask() == "UNAVAILABLE"


@pytest.mark.parametrize(("strict", "expected"), [(False, "ok"), (True, "UNAVAILABLE")])
@pytest.mark.parametrize("unregistered", [Asgi, Wsgi])
def test_a_server_that_registered_no_port(
    make_mesh: MakeMesh, unregistered: type[Server], caplog: pytest.LogCaptureFixture, strict: bool, expected: str
) -> None:
    """The mesh knows of no port whose policy it could ask for: one warning says so; with MESHLIB_STRICT nobody enters."""
    server = unregistered(make_mesh(strict=strict))
    assert [server.ask(), server.ask()] == [expected, expected]
    assert caplog.text.count("no port is registered") == 1


@pytest.mark.usefixtures("patient")
def test_the_last_policy_counts_at_once(control_plane: Any, make_mesh: MakeMesh) -> None:
    """What an earlier process left on disk for the same port is in force while nobody answers; for another port it is not."""
    control_plane.put(Kind.LISTENER, listener(PORT, deny_all(), router()))
    first = make_mesh()
    with Asgi(first) as server:
        assert server.ask() == "PERMISSION_DENIED"
    first.close()
    control_plane.silent = True
    with Asgi(make_mesh()) as server:
        assert becomes(lambda: not isinstance(server.mesh.inbound, Undecided)), "before patience ends"
        assert server.ask() == "PERMISSION_DENIED"
    other = make_mesh()
    other.serve(PORT + 1, "127.0.0.1")
    assert isinstance(other.inbound, Undecided)


def test_a_refused_policy_does_not_replace_the_one_on_disk(control_plane: Any, make_mesh: MakeMesh) -> None:
    """What an earlier process left is the last good one."""
    control_plane.put(Kind.LISTENER, listener(PORT, router()))
    first = make_mesh()
    with Asgi(first) as server:
        assert server.ask() == "ok"
    first.close()
    control_plane.put(Kind.LISTENER, listener(PORT, unknown(), router()))
    with Asgi(make_mesh()) as server:
        assert control_plane.wait_for(lambda: bool(control_plane.nacks))
        assert server.ask() == "ok"


def test_a_mesh_that_is_closed_keeps_its_policy(control_plane: Any, mesh: Mesh) -> None:
    """Requests that are still under way when the server ends find no open door."""
    control_plane.put(Kind.LISTENER, listener(PORT, deny_all(), router()))
    with Asgi(mesh) as server:
        assert server.ask() == "PERMISSION_DENIED"
        known = mesh.inbound
        mesh.close()
        assert mesh.inbound is known
