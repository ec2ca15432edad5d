"""Un-modified programs: the ordinary adapter sends through the mesh what is in the mesh.

Left alone: subclasses of `HTTPAdapter` (somebody chose another way on purpose) and requests that go through a proxy.
"""

from __future__ import annotations

from functools import wraps
from types import ModuleType
from typing import Any

from meshlib.runtime.mesh import Mesh

_originals: dict[ModuleType, Any] = {}


def requests(module: ModuleType, mesh: Mesh | None = None) -> None:
    """Patch requests. Idempotent.

    Args:
        module: the imported library.
        mesh: None: the process's own.
    """
    if module in _originals:
        return
    from meshlib_requests._gate import Gate

    gate, adapter = Gate(mesh), module.adapters.HTTPAdapter
    original = _originals[module] = adapter.send

    @wraps(original)
    def send(
        self: Any,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Any:
        response = gate.send(self, request, timeout, proxies) if type(self) is adapter else None
        return original(self, request, stream, timeout, verify, cert, proxies) if response is None else response

    adapter.send = send


def remove(module: ModuleType) -> None:
    """Take the patch off again."""
    original = _originals.pop(module, None)
    if original is not None:
        module.adapters.HTTPAdapter.send = original
