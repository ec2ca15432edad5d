"""A stream of requests that can be sent again, as long as no response has been committed to.

Messages are kept as bytes, because applications reuse message objects. Envoy keeps what it may have to send again up to its
buffer limit, 1 MiB; what is larger goes out once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

BUFFER = 1_048_576

_NOTHING: Any = object()


class _Kept:
    """What was read of the source so far."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._messages: list[bytes | None] = []
        self._size = 0
        self._keep = True
        self._try = 0
        self.failed: Exception | None = None

    @property
    def replayable(self) -> bool:
        """Whether everything read so far is still here."""
        return self._keep

    def commit(self) -> None:
        """Nobody will ask for it again."""
        self._keep = False

    def _add(self, message: Any) -> None:
        data = self._encode(message)
        self._size += len(data)
        if self._size > BUFFER:
            self._keep = False
        self._messages.append(data)

    def _begin(self) -> int:
        """A new try reads; those before, which may still wait for the source, are given nothing any more."""
        self._try += 1
        return self._try

    def _take(self, index: int) -> bytes:
        data = self._messages[index]
        assert data is not None, "only the last try reads"
        if not self._keep:
            self._messages[: index + 1] = [None] * (index + 1)
        return data


class SyncReplay(_Kept):
    """Over an iterator that threads read: gRPC's, one for each try. One that waits for the source may outlive its try."""

    def __init__(self, source: Iterable[Any], encode: Callable[[Any], bytes]) -> None:
        super().__init__(encode)
        self._source = iter(source)
        self._ended = False
        self._pulling = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[bytes]:
        with self._changed:
            number = self._begin()
            self._changed.notify_all()
        return self._read(number)

    def _read(self, number: int) -> Iterator[bytes]:
        index = 0
        while (data := self._next(number, index)) is not None:
            index += 1
            yield data

    def _next(self, number: int, index: int) -> bytes | None:
        with self._changed:
            while number == self._try and index == len(self._messages) and not self._ended:
                if self._pulling:
                    self._changed.wait()
                else:
                    self._pull()
            if number != self._try:
                return None
            if index < len(self._messages):
                return self._take(index)
            if self.failed is not None:
                raise self.failed
            return None

    def _pull(self) -> None:
        """One reader waits for the source, without the lock: the next try reads meanwhile what is kept."""
        self._pulling = True
        self._changed.release()
        message, ended, failed = _NOTHING, False, None
        try:
            message = next(self._source)
        except StopIteration:
            ended = True
        except Exception as error:  # the application's iterator
            failed = error
        self._changed.acquire()
        self._pulling = False
        try:
            if message is not _NOTHING:
                self._add(message)
        except Exception as error:  # the application's serializer
            failed = error
        self.failed, self._ended = failed, ended or failed is not None
        self._changed.notify_all()


class AsyncReplay(_Kept):
    """Over an iterator, or over what `write` is given."""

    def __init__(self, source: Iterable[Any] | AsyncIterable[Any] | None, encode: Callable[[Any], bytes]) -> None:
        super().__init__(encode)
        self.written = source is None
        self._source: Any = source
        self._iterator: Any = None
        self._puller: asyncio.Task[None] | None = None
        self._ended = False
        self._taken = 0
        self._over = False
        self._changed = asyncio.Event()

    async def write(self, message: Any) -> None:
        """Send a message; returns when gRPC has taken it, or the call is done."""
        self._add(message)
        index = len(self._messages)
        self._wake()
        while self._taken < index and not self._over:
            await self._changed.wait()

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self._ended

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def over(self, _: Any) -> None:
        """The call is done: who waits for gRPC to take a message waits no more."""
        self._over = True
        if self._puller is not None:
            self._puller.cancel()
        self._wake()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read(self._begin())

    async def _read(self, number: int) -> AsyncIterator[bytes]:
        index = 0
        while await self._has(index, number):
            data = self._take(index)
            index += 1
            self._taken = max(self._taken, index)
            if self.written:
                self._wake()
            yield data
        if number == self._try and self.failed is not None:
            raise self.failed

    async def _has(self, index: int, number: int) -> bool:
        while number == self._try and index == len(self._messages) and not self._ended:
            if isinstance(self._source, Iterable):
                self._pull_now(self._source)
                continue
            if not self.written and (self._puller is None or self._puller.done()):
                self._puller = asyncio.get_running_loop().create_task(self._pull())
            await self._changed.wait()
        return number == self._try and index < len(self._messages)

    def _pull_now(self, source: Iterable[Any]) -> None:
        self._iterator = self._iterator or iter(source)
        try:
            self._add(next(self._iterator))
        except StopIteration:
            self._ended = True
        except Exception as error:  # the application's iterator, or its serializer
            self.failed, self._ended = error, True

    async def _pull(self) -> None:
        """In a task of its own: gRPC cancels the reader of a try that it gives up, and that would end the application's
        generator, so that the next try took the first half of the requests for all of them.
        """
        self._iterator = self._iterator or aiter(self._source)
        try:
            self._add(await anext(self._iterator))
        except StopAsyncIteration:
            self._ended = True
        except Exception as error:  # the application's iterator, or its serializer
            self.failed, self._ended = error, True
        self._wake()
