"""httpx's words and ours: requests become facts, our errors become httpx's.

No I/O, and no import of httpx or httpx2: the library that a request belongs to is an argument.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from meshlib.errors import (
    ConnectFailure,
    ConnectionTerminated,
    InvalidRequest,
    MeshError,
    NoCluster,
    NoHealthyUpstream,
    Sighting,
    UpstreamError,
    UpstreamOverflow,
    UpstreamTimeout,
)
from meshlib.facts import Request
from meshlib.runtime.http1 import PeerClosed
from meshlib.runtime.timing import NO_TIMEOUT, CallerTimeout, Timeout

_UNREACHABLE = (NoCluster, NoHealthyUpstream, UpstreamOverflow, ConnectFailure)
_TIMEOUTS = {"connect": "ConnectTimeout", "read": "ReadTimeout", "write": "WriteTimeout", "pool": "PoolTimeout"}


def facts_of(request: Any) -> tuple[Request, str]:
    """What policy may know of an `httpx.Request`, and the host and port of its URL if the Host header names others."""
    url = request.url
    host = url.netloc.decode("ascii")
    authority = host
    headers = []
    for raw, text in request.headers.raw:
        name = raw.lower()
        if name == b"host":
            authority = text.decode("latin-1")
        else:
            headers.append((name.decode("latin-1"), text.decode("latin-1")))
    facts = Request(request.method, url.scheme, authority, url.raw_path.decode("ascii"), tuple(headers))
    return facts, "" if authority == host else host


def timeout_of(request: Any) -> Timeout:
    """The limits in `request.extensions["timeout"]`; httpx leaves out or sets to None what has no limit."""
    limits = request.extensions.get("timeout")
    return Timeout(**limits) if limits else NO_TIMEOUT


def extensions_of(sighting: Sighting, http_version: str, reason: bytes) -> dict[str, Any]:
    """What a response carries beside status, headers and body: httpx's usual, and what the mesh saw."""
    extensions: dict[str, Any] = {"http_version": b"HTTP/" + http_version.encode("ascii"), "meshlib": sighting}
    if reason:  # without one, httpx names the status itself
        extensions["reason_phrase"] = reason
    return extensions


def exception_of(library: ModuleType, error: MeshError, request: Any) -> Exception:
    """The exception of httpx that says the same, so that `except` clauses keep working, with what the mesh saw as a note.

    Args:
        library: httpx or httpx2.
        request: goes into the exception's `request`.
    """
    if not isinstance(error, UpstreamError):
        name = "LocalProtocolError" if isinstance(error, InvalidRequest) else "ConnectError"
        told: Exception = getattr(library, name)(str(error), request=request)
        return told
    told = getattr(library, _name(error))(error.sighting.detail, request=request)
    told.add_note(str(error.sighting))
    return told


def _name(error: UpstreamError) -> str:
    cause = error.__cause__
    if isinstance(error, UpstreamTimeout):
        return _TIMEOUTS[cause.operation] if isinstance(cause, CallerTimeout) else "ReadTimeout"
    if isinstance(error, _UNREACHABLE):
        return "ConnectTimeout" if isinstance(cause, TimeoutError) else "ConnectError"
    # httpx's own distinction: an orderly close in the wrong place breaks the protocol, a reset breaks the network.
    reset = isinstance(error, ConnectionTerminated) and not isinstance(cause, PeerClosed)
    return "ReadError" if reset else "RemoteProtocolError"
