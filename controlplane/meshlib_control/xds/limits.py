"""How much one client may ask for. Whoever asks for more loses its stream, with the reason; others do not notice.

Strategy: what is big is refused before it is looked at, what is frequent waits (gRPC's flow control passes that on), what is
endless is not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from meshlib.errors import MeshError


class TooMuch(MeshError):
    """A client asks for more than its share; the text says of what, and how much it may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may.

    Args:
        message: bytes of one request. An Envoy that reconnects with 20,000 clusters needs 1.7 MB.
        node: bytes of a node's description. Envoy's own, with all its extensions, is some 50 kB.
        registrations: services and ports that one node serves.
        names: that a stream may follow, of all types together.
        name: characters of a name, a version or a type.
        types: that a stream may ask for.
        streams: that one identity may have open: instances times workers of one service account.
        requests, burst: how many a stream may send in a second, and at once; more wait.
        silence: seconds until the first request.
        error: characters of a rejection that are kept.
        told: rejections of a stream that are logged.
        grpc_response: bytes of one response to gRPC's own clients, in any language: they end a stream that brings more, again
            after every reconnect. Only what cannot be split may meet it.
    """

    message: int = 2 * 1024 * 1024
    node: int = 256 * 1024
    registrations: int = 1000
    names: int = 20_000
    name: int = 1024
    types: int = 32
    streams: int = 5000
    requests: float = 200.0
    burst: int = 1000
    silence: float = 30.0
    error: int = 4096
    told: int = 20
    grpc_response: int = 4 * 1024 * 1024

    def check(self, what: str, amount: int, most: int) -> None:
        """Raises TooMuch if an amount is over its limit."""
        if amount > most:
            raise TooMuch(f"{what}: {amount:,}, and at most {most:,} are taken")


@dataclass(slots=True)
class Pace:
    """A bucket of requests: `burst` at once, then `rate` a second."""

    rate: float
    burst: int
    _left: float = field(init=False)
    _last: float | None = None

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def wait(self, now: float) -> float:
        """Takes one; seconds until it may be used.

        Args:
            now: seconds, monotonic.
        """
        if self._last is not None:
            self._left = min(float(self.burst), self._left + (now - self._last) * self.rate)
        self._last = now
        self._left -= 1.0
        return max(0.0, -self._left / self.rate)


@dataclass(slots=True)
class OpenStreams:
    """How many streams each identity has open."""

    most: int
    _open: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one_more(self, spiffe_id: str) -> Iterator[None]:
        """Counts a stream while it is open.

        Raises:
            TooMuch: the identity has too many.
        """
        if self._open[spiffe_id] >= self.most:
            raise TooMuch(f"{spiffe_id} has {self.most:,} streams open, and more are not taken")
        self._open[spiffe_id] += 1
        try:
            yield
        finally:
            self._open[spiffe_id] -= 1
            if not self._open[spiffe_id]:
                del self._open[spiffe_id]
