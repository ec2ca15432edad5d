"""What `meshlib run` does to uvicorn once it is imported: unmodified `uvicorn app:app --workers 2` is in the mesh.

`Config.load` runs in the process that serves, after any fork or spawn, whoever made the configuration: the command,
`uvicorn.run`, `Server(Config(...))` or gunicorn's UvicornWorker. There the protocol is chosen and the application
wrapped, outermost.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.config import Config

_log = logging.getLogger("meshlib.asgi")
_MARK = "meshlib"  # on our wrapper; `functools.wraps` hands it on to those who wrap us
_REPLACED = ("auto", "httptools", "h11")  # they differ in the parser only


def uvicorn(module: ModuleType) -> None:
    """Let every server of uvicorn join the mesh of the environment. Called once, with the imported package."""
    from uvicorn.config import Config

    original = Config.load
    if _MARK in original.__dict__:
        return

    @functools.wraps(original)
    def load(self: Config) -> None:
        from meshlib_asgi.middleware import MeshMiddleware

        _speak(self)
        original(self)
        self.loaded_app = MeshMiddleware(self.loaded_app)

    load.__dict__[_MARK] = True
    Config.load = load  # type: ignore[method-assign]


def _speak(config: Config) -> None:
    from meshlib_asgi.protocol import MeshProtocol

    if config.http in _REPLACED and not config.http2:
        config.http = MeshProtocol
    elif not (isinstance(config.http, type) and issubclass(config.http, MeshProtocol)):
        _log.warning("uvicorn speaks %r here: the port takes plain text only, no mutual TLS. Use --http auto", config.http)
