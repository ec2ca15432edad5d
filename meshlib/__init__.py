"""A service mesh inside the process: Istio's configuration, mutual TLS, routing, retries and telemetry without a proxy.

This is the public door; what is not named here may change without notice. Nothing is imported before it is used, so that
`import meshlib` is cheap and a process may still fork.

    mesh = meshlib.default()            # from MESHLIB_* in the environment
    peer = meshlib.peer()               # who called, inside a request handler
    claims = meshlib.claims()           # what its user's token says, if one was proved
    context = meshlib.context()         # request id and trace of the request being handled
    meshlib.limit("exports", user=7)    # whether a rate limit of the configuration has room for this; limit_async to await
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshlib._version import __version__

if TYPE_CHECKING:
    from meshlib import errors
    from meshlib.errors import ConfigurationError, MeshError, UpstreamError
    from meshlib.facts import Peer, Request, Response
    from meshlib.inbound import claims, peer
    from meshlib.runtime.application_limit import limit, limit_async
    from meshlib.runtime.mesh import Mesh, default
    from meshlib.runtime.settings import Settings
    from meshlib.telemetry.context import current as context

__all__ = [
    "ConfigurationError",
    "Mesh",
    "MeshError",
    "Peer",
    "Request",
    "Response",
    "Settings",
    "UpstreamError",
    "__version__",
    "claims",
    "context",
    "default",
    "errors",
    "limit",
    "limit_async",
    "peer",
]

_PLACES = {
    "ConfigurationError": ("meshlib.errors", "ConfigurationError"),
    "Mesh": ("meshlib.runtime.mesh", "Mesh"),
    "MeshError": ("meshlib.errors", "MeshError"),
    "Peer": ("meshlib.facts", "Peer"),
    "Request": ("meshlib.facts", "Request"),
    "Response": ("meshlib.facts", "Response"),
    "Settings": ("meshlib.runtime.settings", "Settings"),
    "UpstreamError": ("meshlib.errors", "UpstreamError"),
    "claims": ("meshlib.inbound", "claims"),
    "context": ("meshlib.telemetry.context", "current"),
    "default": ("meshlib.runtime.mesh", "default"),
    "limit": ("meshlib.runtime.application_limit", "limit"),
    "limit_async": ("meshlib.runtime.application_limit", "limit_async"),
    "peer": ("meshlib.inbound", "peer"),
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("meshlib.errors")
    if name not in _PLACES:
        raise AttributeError(f"module 'meshlib' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value  # found once, then an ordinary attribute
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
