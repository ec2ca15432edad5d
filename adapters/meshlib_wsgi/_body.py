"""A request's body whose beginning was read already."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any


class Replayed:
    """`wsgi.input` for the application: what was read, and then the rest.

    Args:
        data: what was read.
        rest: the server's own stream.
    """

    def __init__(self, data: bytes, rest: Any) -> None:
        self._data = io.BytesIO(data)
        self._rest = rest

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, all without a size."""
        if size is None or size < 0:
            return self._data.read() + bytes(self._rest.read())
        first = self._data.read(size)
        return first + bytes(self._rest.read(size - len(first))) if len(first) < size else first

    def readline(self, size: int | None = -1) -> bytes:
        """A line, or its first `size` bytes."""
        limit = -1 if size is None else size
        first = self._data.readline(limit)
        if first.endswith(b"\n") or (limit >= 0 and len(first) >= limit):
            return first
        return first + bytes(self._rest.readline(limit - len(first)) if limit >= 0 else self._rest.readline())

    def readlines(self, hint: int = -1) -> list[bytes]:
        """All lines, or those with which `hint` bytes are reached."""
        found: list[bytes] = []
        for line in self:
            found.append(line)
            if 0 < hint <= sum(map(len, found)):
                break
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Line by line."""
        while line := self.readline():
            yield line
