"""requests' words and ours: prepared requests become facts, our errors become requests' own. No I/O."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests

from meshlib.errors import (
    ConnectFailure,
    InvalidRequest,
    MeshError,
    NoCluster,
    NoHealthyUpstream,
    UpstreamError,
    UpstreamOverflow,
    UpstreamTimeout,
)
from meshlib.facts import Request
from meshlib.runtime.timing import NO_TIMEOUT, CallerTimeout, Timeout

_UNREACHABLE = (NoCluster, NoHealthyUpstream, UpstreamOverflow, ConnectFailure)


def facts_of(request: requests.PreparedRequest) -> tuple[Request, str]:
    """What policy may know, and the host and port of the URL if the Host header names others."""
    parts = urlsplit(request.url or "")
    host = str(parts.netloc).rpartition("@")[2]
    authority = host
    headers = []
    for key, value in request.headers.items():
        name, text = _text(key).lower(), _text(value)
        if name == "host":
            authority = text
        else:
            headers.append((name, text))
    facts = Request((request.method or "GET").upper(), str(parts.scheme), authority, request.path_url, tuple(headers))
    return facts, "" if authority == host else host


def timeout_of(timeout: Any) -> Timeout:
    """requests' `timeout`: seconds, `(connect, read)`, or urllib3's `Timeout`.

    Raises:
        ValueError: a tuple of another size; the words are those of requests' own adapter in meaning.
    """
    if timeout is None:
        return NO_TIMEOUT
    if isinstance(timeout, tuple):
        if len(timeout) != 2:
            raise ValueError(f"timeout={timeout!r} is neither a number nor a pair; write timeout=(connect, read)")
        return Timeout(connect=timeout[0], read=timeout[1])
    if hasattr(timeout, "connect_timeout"):
        return Timeout(connect=_seconds(timeout.connect_timeout), read=_seconds(timeout.read_timeout))
    return Timeout(connect=timeout, read=timeout)


def exception_of(error: MeshError, request: requests.PreparedRequest) -> Exception:
    """The exception of requests that says the same, with what the mesh saw as a note."""
    if isinstance(error, InvalidRequest):
        return requests.exceptions.InvalidHeader(str(error), request=request)
    if not isinstance(error, UpstreamError):
        return requests.exceptions.ConnectionError(str(error), request=request)
    return _noted(_kind(error)(error.sighting.detail, request=request), error)


def body_exception_of(error: MeshError, request: requests.PreparedRequest) -> Exception:
    """As `exception_of`, for a response that broke off while its body was read."""
    if not isinstance(error, UpstreamError):
        return exception_of(error, request)
    if isinstance(error, UpstreamTimeout):  # requests says ConnectionError here, not ReadTimeout
        return _noted(requests.exceptions.ConnectionError(error.sighting.detail, request=request), error)
    return _noted(requests.exceptions.ChunkedEncodingError(error.sighting.detail, request=request), error)


def _kind(error: UpstreamError) -> type[requests.exceptions.RequestException]:
    cause = error.__cause__
    connecting = isinstance(error, _UNREACHABLE) or (isinstance(cause, CallerTimeout) and cause.operation == "connect")
    if connecting and isinstance(cause, TimeoutError):
        return requests.exceptions.ConnectTimeout
    return requests.exceptions.ReadTimeout if isinstance(error, UpstreamTimeout) else requests.exceptions.ConnectionError


def _noted(told: Exception, error: UpstreamError) -> Exception:
    told.add_note(str(error.sighting))
    return told


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _seconds(limit: Any) -> float | None:
    return float(limit) if isinstance(limit, (int, float)) else None  # urllib3 has a sentinel for "not said"
