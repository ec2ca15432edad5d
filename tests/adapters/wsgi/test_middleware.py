"""MeshMiddleware for WSGI, called as a server calls it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

import meshlib
from meshlib.facts import Peer
from meshlib_wsgi import MeshMiddleware
from tests.support.server_folder import mesh_in


@pytest.fixture
def mesh(tmp_path: Path) -> Any:
    return mesh_in(tmp_path)[0]


def told(mesh: Any) -> list[dict[str, Any]]:
    place = mesh.folder / "events"
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


def environ(**more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"REMOTE_ADDR": "10.0.0.7", "REMOTE_PORT": "51234", "HTTP_HOST": "reviews:9080"} | more
    setup_testing_defaults(made)
    return made


def start(status: str, headers: Any, exc_info: Any = None) -> Any:
    return lambda data: None


class Body:
    """An iterable that keeps whether it was closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed = True


def app_of(body: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    return app


def test_a_body_is_closed_and_told_when_the_server_is_done(mesh: Any) -> None:
    """Read to its end: 200 and its bytes."""
    body = Body(b"one", b"two")
    answer: Any = MeshMiddleware(app_of(body), mesh)(environ(), start)
    assert list(answer) == [b"one", b"two"]
    answer.close()
    assert body.closed
    assert [(event["status"], event["flags"], event["sent"]) for event in told(mesh)] == [(200, "-", 6)]


def test_a_body_that_is_not_read_to_its_end_means_that_the_client_left(mesh: Any) -> None:
    """Closed all the same."""
    body = Body(b"one", b"two")
    answer: Any = MeshMiddleware(app_of(body), mesh)(environ(), start)
    next(answer)
    answer.close()
    assert body.closed
    assert [(event["status"], event["flags"]) for event in told(mesh)] == [(0, "DC")]


def test_a_body_that_breaks_in_the_middle_is_told_as_cut_off(mesh: Any) -> None:
    """The status has gone out; Envoy's flag for a response that was cut off is UC."""

    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    answer: Any = MeshMiddleware(app_of(broken()), mesh)(environ(), start)
    next(answer)
    with pytest.raises(ZeroDivisionError):
        next(answer)
    answer.close()
    assert [(event["status"], event["flags"]) for event in told(mesh)] == [(200, "UC")]


def test_a_generator_that_breaks_at_once_is_told_as_500(mesh: Any) -> None:
    """Nothing was sent: servers answer 500."""

    def broken() -> Iterator[bytes]:
        raise ZeroDivisionError
        yield b""

    answer: Any = MeshMiddleware(app_of(broken()), mesh)(environ(), start)
    with pytest.raises(ZeroDivisionError):
        next(answer)
    answer.close()
    assert [(event["status"], event["flags"]) for event in told(mesh)] == [(500, "-")]


def test_the_context_lasts_while_the_body_is_made_and_is_nowhere_else(mesh: Any) -> None:
    """A generator makes its pieces after the application returned, here in another thread; the server's own stay clean."""
    seen: list[Any] = []

    def body() -> Iterator[bytes]:
        context = meshlib.context()
        seen.append((context.request_id if context else None, meshlib.peer().address))
        yield b"piece"

    answer: Any = MeshMiddleware(app_of(body()), mesh)(environ(HTTP_X_REQUEST_ID="id-1"), start)

    def read() -> None:
        list(answer)
        answer.close()
        seen.append((meshlib.context(), meshlib.peer()))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert seen == [("id-1", "10.0.0.7:51234"), (None, Peer())]
    assert meshlib.context() is None


def test_a_file_stays_a_file_for_the_server(mesh: Any) -> None:
    """Servers send their own wrapper by descriptor: it is given back as it is, its close tells the event."""
    file = io.BytesIO(b"content")
    wrapper = FileWrapper(file)
    answer: Any = MeshMiddleware(app_of(wrapper), mesh)(environ(**{"wsgi.file_wrapper": FileWrapper}), start)
    assert answer is wrapper
    assert told(mesh) == []
    answer.close()
    assert file.closed
    assert told(mesh)[0]["status"] == 200


def test_write_is_counted(mesh: Any) -> None:
    """PEP 3333's old way of sending."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"written")
        return []

    answer: Any = MeshMiddleware(app, mesh)(environ(), start)
    assert list(answer) == []
    answer.close()
    assert told(mesh)[0]["sent"] == 7


def test_an_outer_middleware_has_the_request_already(mesh: Any) -> None:
    """`meshlib run` wraps a program that wraps itself, and ASGI's middleware wraps a2wsgi: one event."""
    inner = MeshMiddleware(app_of([b"x"]), mesh)
    answer: Any = MeshMiddleware(inner, mesh)(environ(), start)
    list(answer)
    answer.close()
    assert len(told(mesh)) == 1
    assert list(inner(environ(**{"asgi.scope": {"meshlib.seen": True}}), start)) == [b"x"]
    assert len(told(mesh)) == 1


def test_strict_denies_what_another_server_let_in(mesh: Any) -> None:
    """A server without our worker classes shows plain text only; STRICT is not ignored but answered 403."""
    (mesh.folder / "mode").write_text("STRICT")
    statuses: list[str] = []

    def start_keeping(status: str, headers: Any) -> Any:
        statuses.append(status)
        return start(status, headers)

    answer: Any = MeshMiddleware(app_of([b"x"]), mesh)(environ(), start_keeping)
    assert b"STRICT" in b"".join(answer)
    answer.close()
    assert statuses == ["403 Forbidden"]


def test_a_header_that_looks_like_a_peer_proves_nothing(mesh: Any) -> None:
    """Only sockets that the mesh secured, and MeshProtocol's scope, name a peer."""
    seen: list[Peer] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(meshlib.peer())
        start_response("200 OK", [])
        return []

    answer: Any = MeshMiddleware(app, mesh)(environ(HTTP_MESHLIB_PEER="admin", HTTP_X_FORWARDED_CLIENT_CERT="URI=x"), start)
    list(answer)
    answer.close()
    assert not seen[0].secured
