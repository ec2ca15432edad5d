"""Un-modified programs: httpx's ordinary transports send through the mesh what is in the mesh.

The transports' public methods are wrapped, so clients made by any road are covered, the module's own functions
too. Left alone: transports with a proxy or a Unix socket (somebody chose another way on purpose) and subclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from meshlib.runtime.mesh import Mesh
from meshlib_httpx._gate import AsyncGate, SyncGate

_DIRECT = "_meshlib_direct"
_patches: dict[ModuleType, list[Callable[[], None]]] = {}


def httpx(module: ModuleType, mesh: Mesh | None = None) -> None:
    """Patch httpx or httpx2. Idempotent.

    Args:
        module: the imported library.
        mesh: None: the process's own.
    """
    if module not in _patches:
        _patches[module] = [*_patch_async(module, AsyncGate(module, mesh)), *_patch_sync(module, SyncGate(module, mesh))]


def remove(module: ModuleType) -> None:
    """Take the patches off again."""
    for restore in _patches.pop(module, []):
        restore()


def _patch_async(module: ModuleType, gate: AsyncGate) -> list[Callable[[], None]]:
    transport = module.AsyncHTTPTransport
    original = transport.handle_async_request

    @wraps(original)
    async def handle_async_request(self: Any, request: Any) -> Any:
        response = await gate.send(request) if _is_plain(self, transport) else None
        return await original(self, request) if response is None else response

    return [_mark_direct(transport), _replace(transport, "handle_async_request", handle_async_request)]


def _patch_sync(module: ModuleType, gate: SyncGate) -> list[Callable[[], None]]:
    transport = module.HTTPTransport
    original = transport.handle_request

    @wraps(original)
    def handle_request(self: Any, request: Any) -> Any:
        response = gate.send(request) if _is_plain(self, transport) else None
        return original(self, request) if response is None else response

    return [_mark_direct(transport), _replace(transport, "handle_request", handle_request)]


def _mark_direct(transport: Any) -> Callable[[], None]:
    """Let transports remember whether they go straight to the host that a URL names."""
    original = transport.__init__

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # it takes the place of one
        original(self, *args, **kwargs)
        setattr(self, _DIRECT, len(args) < _POSITIONAL and kwargs.get("proxy") is None and kwargs.get("uds") is None)

    return _replace(transport, "__init__", __init__)


_POSITIONAL = 7  # `proxy` is the seventh parameter; nobody passes it so, and who does is left alone


def _is_plain(transport: Any, kind: type) -> bool:
    return type(transport) is kind and getattr(transport, _DIRECT, False)


def _replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, original)
