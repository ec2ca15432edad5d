"""The first look at a connection: which byte comes first, or that none does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class FirstByte(asyncio.Protocol):
    """Waits for the first bytes of a connection, then is replaced by whoever can read them.

    Args:
        transport: the connection; `set_protocol` is called on it here.
        on_data: gets the first bytes, at least one.
        on_lost: gets the error, or None, if the connection ends before.
        limit: seconds; a client that is silent for longer is cut off.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        on_data: Callable[[bytes], None],
        on_lost: Callable[[Exception | None], None],
        *,
        limit: float,
    ) -> None:
        self._on_data = on_data
        self._on_lost = on_lost
        self._timer = asyncio.get_running_loop().call_later(limit, transport.abort)
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """The client spoke."""
        self._timer.cancel()
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or was cut off."""
        self._timer.cancel()
        self._on_lost(exc)
