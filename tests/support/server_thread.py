"""uvicorn in a thread of the test: to compare protocols byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uvicorn import Config, Server


@contextmanager
def serving(app: Any, http: Any, **options: Any) -> Iterator[int]:
    """Serve `app` with the protocol `http`; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Config(app, http=http, log_config=None, **{"lifespan": "off", "loop": "asyncio"} | options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def talk(connection: socket.socket, pieces: list[bytes]) -> bytes:
    """Send the pieces one by one, then read until the other side closes or is silent for half a second."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = b""
    try:
        for piece in pieces:
            connection.sendall(piece)
        connection.settimeout(0.5)
        while chunk := connection.recv(65_536):
            answer += chunk
    except TimeoutError:
        pass
    except (ConnectionResetError, BrokenPipeError):
        answer += b"<reset>"
    return answer
