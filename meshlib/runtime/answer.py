"""What the blocking and the asyncio client share once a connection answers: everything that does not wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from meshlib.errors import Sighting
from meshlib.outbound.exchange import Deliver, LocalReply
from meshlib.runtime.call import Call, Delivery, replied
from meshlib.runtime.http1 import ResponseHead


class Answering(Protocol):
    """A connection whose exchange is under way."""

    @property
    def parser(self) -> Any:
        """What has been read of the response."""

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and another may follow."""

    @property
    def principal(self) -> str:
        """The peer's SPIFFE id; empty for plain text."""

    @property
    def local_address(self) -> str:
        """Our side, `ip:port`."""

    def abort(self) -> None:
        """Close at once."""


C = TypeVar("C", bound=Answering)


class Held(NamedTuple, Generic[C]):
    """A connection that a response is still read from.

    Args:
        release: takes the connection back when its exchange is over.
    """

    connection: C
    delivery: Delivery
    release: Callable[[C], None]


class Tries(Generic[C]):
    """The tries of one call: the connection in use, and the head of its response.

    Args:
        release: takes a connection back whose exchange is over.
    """

    __slots__ = ("_call", "_connection", "_head", "_release")

    def __init__(self, call: Call, release: Callable[[C], None]) -> None:
        self._call = call
        self._release = release
        self._connection: C | None = None
        self._head: ResponseHead | None = None

    def drop(self) -> None:
        """Nobody wants the response under way."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection.reusable:
                self._release(connection)
            else:
                connection.abort()

    def outcome(self, final: Deliver | LocalReply) -> tuple[ResponseHead, Sighting, Held[C] | None, bytes]:
        """What the caller's response is made of: head, sighting, the connection to read from, or the body at hand."""
        if isinstance(final, LocalReply):
            self.drop()
            return *replied(self._call, final), None, final.body
        assert self._connection is not None
        assert self._head is not None
        connection = self._connection
        delivery = Delivery(self._call, final, self._head, connection.principal, connection.local_address)
        return self._head, delivery.sighting, Held(connection, delivery, self._release), b""


class Answer(Generic[C]):
    """A response whose head is here. Iterate it for the body, once; `close` it if not to the end.

    Attributes:
        headers: as they came on the wire.
        sighting: what the mesh saw.
    """

    __slots__ = ("_held", "_rest", "headers", "http_version", "reason", "sighting", "status")

    def __init__(self, head: ResponseHead, sighting: Sighting, held: Held[C] | None, rest: bytes) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.http_version = head.http_version
        self.sighting = sighting
        self._held = held
        self._rest = rest
        if held is not None and held.connection.parser.complete:
            self._rest = held.connection.parser.take()  # usual for small bodies: the connection is free before anybody reads
            self._complete(held, len(self._rest))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.sighting.endpoint}>"

    @property
    def whole(self) -> bytes | None:
        """The whole body, if it is at hand already; taking it is reading it. None: it has to be read."""
        return None if self._held is not None else self._rest

    def close(self) -> None:
        """Whoever does not read to the end gives the connection up with it."""
        self._rest = b""
        held, self._held = self._held, None
        if held is not None:
            held.connection.abort()
            held.delivery.left()

    def _take_rest(self) -> bytes:
        piece, self._rest = self._rest, b""
        return piece

    def _received(self, held: Held[C], piece: bytes) -> bytes:
        if held.connection.parser.complete and not held.connection.parser.chunks:
            self._complete(held, len(piece))
        else:
            held.delivery.received(len(piece))
        return piece

    def _broken(self, held: Held[C], error: BaseException) -> BaseException:
        self._held = None
        held.connection.abort()
        return held.delivery.broken(error)

    def _complete(self, held: Held[C], size: int) -> None:
        self._held = None
        held.delivery.received(size)
        held.delivery.complete()
        held.release(held.connection)
