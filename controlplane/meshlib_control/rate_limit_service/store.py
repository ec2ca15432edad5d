"""How often something was counted in the window that runs now. Fixed windows, as the reference: the count is exact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from redis.asyncio import Redis

MOST_CONNECTIONS = 32
"""To Redis, of one service; further requests wait for one."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Requests to count.

    Args:
        key: what is counted, in which window: a new window has a new key.
        ends: seconds since the epoch: when the window is over, and the count may be forgotten.
        count: how many.
    """

    key: str
    ends: int
    count: int = 1


class StoreFailure(Exception):
    """The store cannot be asked."""


class Store(Protocol):
    """Counts."""

    async def add(self, hits: Sequence[Hit], now: float) -> list[int]:
        """The counts after these hits, in their order. Raises StoreFailure."""

    async def close(self) -> None:
        """Give back what is held."""


class MemoryStore:
    """Counts of this process, in one event loop; nothing is kept when it ends."""

    def __init__(self) -> None:
        self._windows: dict[int, defaultdict[str, int]] = {}

    async def add(self, hits: Sequence[Hit], now: float) -> list[int]:
        """As `Store.add`; never fails."""
        for ends in [ends for ends in self._windows if ends <= now]:
            del self._windows[ends]
        return [self._add(hit) for hit in hits]

    def _add(self, hit: Hit) -> int:
        counts = self._windows.setdefault(hit.ends, defaultdict(int))
        counts[hit.key] += hit.count
        return counts[hit.key]

    async def close(self) -> None:
        """Nothing is held."""


class RedisStore:
    """Counts in Redis, shared by any number of services.

    Args:
        url: `redis://127.0.0.1:6379/0`, `rediss://` for TLS, `unix:///run/redis.sock`.
        timeout: seconds for one answer, and for a free connection.

    Raises:
        ValueError: not such an address.
    """

    def __init__(self, url: str, timeout: float = 1.0) -> None:
        from redis.asyncio import BlockingConnectionPool, Redis  # an extra: only who uses Redis needs it

        limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "timeout": timeout}
        pool = BlockingConnectionPool.from_url(url, max_connections=MOST_CONNECTIONS, **limits)
        self._redis: Redis = Redis.from_pool(pool)

    async def add(self, hits: Sequence[Hit], now: float) -> list[int]:
        """As `Store.add`. INCRBY is atomic, so that several services together count exactly."""
        from redis.exceptions import RedisError

        pipeline = self._redis.pipeline(transaction=False)
        for hit in hits:
            pipeline.incrby(hit.key, hit.count)
            pipeline.expire(hit.key, max(1, hit.ends - int(now)))
        try:
            answers = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise StoreFailure(f"Redis: {error}") from error
        return [int(count) for count in answers[::2]]

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
