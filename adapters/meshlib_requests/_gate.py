"""The way of one prepared request into the mesh: convert, send, convert back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

import meshlib
from meshlib.errors import MeshError
from meshlib.runtime.mesh import Mesh
from meshlib_requests._body import urllib3_response
from meshlib_requests._convert import exception_of, facts_of, timeout_of

_PIECE = 65_536


class Gate:
    """Sends what is in the mesh.

    Args:
        mesh: None: the process's own, once it is needed.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self._mesh = mesh

    def send(
        self, adapter: HTTPAdapter, request: requests.PreparedRequest, timeout: Any, proxies: Any
    ) -> requests.Response | None:
        """The response, its body not read yet; None: this request is not for the mesh.

        Raises:
            requests.RequestException: there is no response; the note says what the mesh saw.
        """
        url = request.url or ""
        if not url.lower().startswith("http:") or select_proxy(url, proxies):
            return None
        if self._mesh is None:
            self._mesh = meshlib.default()
        facts, host = facts_of(request)
        try:
            response = self._mesh.client().send(facts, _body(request.body), timeout=timeout_of(timeout), host=host)
        except MeshError as error:
            raise exception_of(error, request) from error
        if response is None:
            return None
        built = adapter.build_response(request, urllib3_response(response, request))
        built.meshlib = response.sighting  # type: ignore[attr-defined]  # requests has no place for extensions
        return built


def _body(body: Any) -> bytes | Iterable[bytes] | None:
    if body is None or isinstance(body, bytes):
        return body or None
    if isinstance(body, str):
        return body.encode("utf-8")
    return _file_pieces(body) if hasattr(body, "read") else _pieces(body)


def _file_pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield _bytes(piece)


def _pieces(body: Iterable[Any]) -> Iterator[bytes]:
    for piece in body:
        yield _bytes(piece)


def _bytes(piece: str | bytes) -> bytes:
    return piece.encode("utf-8") if isinstance(piece, str) else bytes(piece)
