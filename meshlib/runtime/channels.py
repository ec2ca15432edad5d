"""gRPC methods of services that filters of our port ask, blocking or on asyncio.

The channels are those of the gRPC adapter, found by their entry points: so a service of the mesh is balanced and reached over
mutual TLS as by any other caller.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from meshlib.config.messages import message

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

CHANNELS = "meshlib.channels"
"""The group of entry points: `blocking` and `asyncio`, each a function of target and mesh."""


class Channels:
    """One set of channels for all threads, and one for each event loop.

    Args:
        mesh: whose identity and routes the calls have.
        method: `/package.Service/Method`.
        request, response: full names of its messages.
    """

    def __init__(self, mesh: Mesh, method: str, request: str, response: str) -> None:
        self._mesh = weakref.ref(mesh)
        self._method, self._request, self._response = method, request, response
        self._lock = threading.Lock()
        self._blocking: dict[str, Any] = {}
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = weakref.WeakKeyDictionary()

    def call(self, target: str) -> Any:
        """The method at a target, for threads."""
        with self._lock:
            if target not in self._blocking:
                self._blocking[target] = self._opened("blocking", target)
            return self._blocking[target]

    def async_call(self, target: str) -> Any:
        """The method at a target, for the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._by_loop:
                for closed in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[closed]
            calls = self._by_loop.setdefault(loop, {})
        if target not in calls:
            calls[target] = self._opened("asyncio", target)
        return calls[target]

    def _opened(self, kind: str, target: str) -> Any:
        (found,) = entry_points(group=CHANNELS, name=kind)
        return found.load()(target, mesh=self._mesh()).unary_unary(
            self._method,
            request_serializer=message(self._request).SerializeToString,
            response_deserializer=message(self._response).FromString,
        )


def utf8(text: str) -> str:
    """What a request's text means: it is bytes shown as latin-1, and protobuf wants Unicode."""
    return text if text.isascii() else text.encode("latin-1", "replace").decode(errors="replace")
