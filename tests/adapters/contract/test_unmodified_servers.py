"""Unmodified programs, started by their own commands with the integrations in place: their ports are ports of the mesh."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pki import spiffe
from tests.support.server_process import ROOT, ServerProcess, until

HOOKS = {"PYTHONPATH": f"{ROOT / 'tests/support/server_site'}:{ROOT}"}
APP = "tests.support.server_apps"
GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "5"]
UVICORN = [sys.executable, "-m", "uvicorn", "--port", "0"]
FLASK = """
from flask import Flask
import meshlib, json
app = Flask(__name__)
@app.get("/who")
def who():
    return {"peer": meshlib.peer().spiffe_id, "context": meshlib.context().request_id, "pid": __import__("os").getpid()}
if __name__ == "__main__":
    app.run(port=0)
"""
RUN = "import uvicorn; uvicorn.run('tests.support.server_apps:bare_asgi', port=0)"

COMMANDS: dict[str, tuple[list[str], int]] = {
    "uvicorn": ([*UVICORN, f"{APP}:bare_asgi"], 1),
    "uvicorn h11": ([*UVICORN, "--http", "h11", f"{APP}:bare_asgi"], 1),
    "uvicorn --workers 2": ([*UVICORN, "--workers", "2", f"{APP}:bare_asgi"], 2),
    "uvicorn.run": ([sys.executable, "-c", RUN], 1),
    "uvicorn wsgi": ([sys.executable, "-W", "ignore", *UVICORN[1:], "--interface", "wsgi", f"{APP}:bare_wsgi"], 1),
    "uvicorn a2wsgi": ([*UVICORN, f"{APP}:a2wsgi_app"], 1),
    "gunicorn -w 4": ([*GUNICORN, "-w", "4", f"{APP}:bare_wsgi"], 4),
    "gunicorn -w 2 --preload": ([*GUNICORN, "-w", "2", "--preload", f"{APP}:bare_wsgi"], 2),
    "gunicorn --threads 4": ([*GUNICORN, "--threads", "4", f"{APP}:bare_wsgi"], 1),
    "gunicorn -w 2 --threads 2 --preload": ([*GUNICORN, "-w", "2", "--threads", "2", "--preload", f"{APP}:bare_wsgi"], 2),
    "gunicorn -k UvicornWorker": ([*GUNICORN, "-w", "2", "-k", "uvicorn_worker.UvicornWorker", f"{APP}:bare_asgi"], 2),
    "gunicorn -k UvicornWorker --preload": (
        [*GUNICORN, "-w", "2", "--preload", "-k", "uvicorn_worker.UvicornWorker", f"{APP}:bare_asgi"],
        2,
    ),
    "flask run": ([sys.executable, "-m", "flask", "run", "--port", "0"], 1),
    "python app.py": ([sys.executable, "app.py"], 1),
}


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    command, _ = COMMANDS[request.param]
    flask = "flask" in command or "app.py" in command
    if flask:
        (tmp_path / "app.py").write_text(FLASK)
    running = ServerProcess(tmp_path, command, environ=HOOKS, cwd=tmp_path if flask else ROOT)
    try:
        yield running
    finally:
        running.stop()


def test_an_unmodified_program_is_in_the_mesh(server: ServerProcess, request: pytest.FixtureRequest) -> None:
    """Every process that serves joins by itself after the fork; callers are known over mutual TLS and served in plain text."""
    _, workers = COMMANDS[request.node.callspec.params["server"]]
    until(lambda: len(server.left("served")) == workers, f"{workers} registrations")
    assert server.ask("/who", headers={"x-request-id": "run-1"}).json()["peer"] == spiffe("productpage")
    assert server.event(request_id="run-1")["status"] == 200
    seen = server.ask("/who", tls=False, headers={"x-request-id": "run-2"}).json()
    assert (seen["peer"], seen["context"]) == ("", "run-2")
    assert f"{server.process.pid}" not in {path.stem for path in server.left("served")} or workers == 1


def test_its_events_are_told_once(server: ServerProcess) -> None:
    """One request, one event, whoever wrapped what."""
    server.ask("/who", headers={"x-request-id": "once-1"})
    server.event(request_id="once-1")
    assert len(server.events(request_id="once-1")) == 1


def test_strict_holds_for_it(server: ServerProcess) -> None:
    """Plain text is refused without an answer."""
    assert server.port
    server.mode("STRICT")
    with pytest.raises(OSError):  # noqa: PT011  # RemoteDisconnected or a reset: both are OSErrors
        server.ask("/who", tls=False)
    assert server.ask("/who", tls=True).json()["peer"] == spiffe("productpage")
