"""A mesh response as requests wants it: a urllib3 response over our body."""

from __future__ import annotations

import io
from collections.abc import Generator
from http.client import HTTPMessage
from typing import Any

import requests
from urllib3 import HTTPHeaderDict, HTTPResponse

from meshlib.errors import MeshError
from meshlib.runtime.client_sync import SyncResponse
from meshlib_requests._convert import body_exception_of


class MeshBody(io.RawIOBase):
    """The body as a file: what urllib3 reads from."""

    def __init__(self, response: SyncResponse, request: requests.PreparedRequest) -> None:
        self._response = response
        self._request = request
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._piece())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def read1(self, size: int = -1) -> bytes:
        """What is there, or else the next piece."""
        if size < 0:
            rest, self._rest = self._rest, memoryview(b"")
            return bytes(rest) or self._piece()
        return super().read(size) or b""

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as asked for, fewer at the end only, as `http.client` does."""
        if size is None or size < 0:
            return self.readall()
        pieces: list[bytes] = []
        while size and (piece := super().read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _piece(self) -> bytes:
        try:
            return self._response.read()
        except MeshError as error:
            raise _Broken(body_exception_of(error, self._request)) from error

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


class _Broken(Exception):
    """Carries requests' exception past urllib3, which would wrap any OSError, and those of requests are."""

    def __init__(self, told: Exception) -> None:
        super().__init__(str(told))
        self.told = told


class MeshHTTPResponse(HTTPResponse):
    """urllib3's response, whose errors are requests' own."""

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        try:
            return super().read(*args, **kwargs)
        except _Broken as broken:
            raise broken.told from broken.__cause__

    def stream(self, amt: int | None = 65_536, decode_content: bool | None = None) -> Generator[bytes]:
        try:
            yield from self._pieces(amt, decode_content) if self.chunked else super().stream(amt, decode_content)
        except _Broken as broken:
            raise broken.told from broken.__cause__

    def _pieces(self, amt: int | None, decode_content: bool | None) -> Generator[bytes]:
        """Pieces as they come: who sends in chunks wants them seen, and `read(amt)` would wait for `amt` bytes."""
        while piece := self.read1(amt, decode_content):
            yield piece


class _Original:
    """What requests reads cookies from: `http.client`'s response in its ordinary adapter."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.msg = HTTPMessage()
        for name, value in headers:
            self.msg.add_header(name, value)

    def isclosed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""


def urllib3_response(response: SyncResponse, request: requests.PreparedRequest) -> HTTPResponse:
    """The response for `HTTPAdapter.build_response`; nothing of its body has been read."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
    body = MeshBody(response, request)
    return MeshHTTPResponse(
        body=body,
        headers=HTTPHeaderDict(headers),
        status=response.status,
        version=11 if response.http_version == "1.1" else 10,
        version_string=f"HTTP/{response.http_version}",
        reason=response.reason.decode("latin-1") or None,
        preload_content=False,
        decode_content=False,
        request_method=request.method,
        request_url=request.url,
        original_response=_Original(headers),  # type: ignore[arg-type]  # the part of it that is used
    )
