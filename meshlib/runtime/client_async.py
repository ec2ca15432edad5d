"""The asyncio client: `outbound.exchange` carried out over pooled connections of one event loop.

Same shape as `client_sync`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from functools import partial

from meshlib.config.snapshot import Absent
from meshlib.errors import IdentityError
from meshlib.facts import Failure, Request, Response
from meshlib.outbound.exchange import OVERFLOW, Send, exchange
from meshlib.outbound.limits import Breaker
from meshlib.runtime.answer import Answer, Tries
from meshlib.runtime.call import Call, ClientTls, Joined, clock
from meshlib.runtime.connection_async import AsyncConnection
from meshlib.runtime.drive import drive_async
from meshlib.runtime.http1 import BodyFailed, MalformedResponse
from meshlib.runtime.pool import Key, Pool, worn
from meshlib.runtime.timing import NO_TIMEOUT, Limit, Timeout, remaining
from meshlib.runtime.turns import Slot, Turns
from meshlib.telemetry import deadline

AsyncBody = bytes | AsyncIterable[bytes] | None


class AsyncClient:
    """Sends requests through the mesh from one event loop. `Mesh.async_client()` keeps one for each loop.

    Its idle connections are closed when the loop ends (`asyncio.run` and whatever else calls `loop.shutdown_asyncgens`), or by
    `close`.
    """

    def __init__(self, mesh: Joined) -> None:
        self._mesh = mesh
        self._pool: Pool[AsyncConnection] = Pool()
        self._turns: Turns[AsyncConnection] = Turns()
        self._keeper: AsyncGenerator[None] | None = None

    def __repr__(self) -> str:
        return f"<AsyncClient {self._pool!r}>"

    async def send(
        self, request: Request, body: AsyncBody = None, *, timeout: Timeout = NO_TIMEOUT, host: str = ""
    ) -> AsyncResponse | None:
        """Send a request and give its response, the body still to be read; None: the host is not in the mesh.

        Args:
            body: an iterable is consumed once, while the response may already be coming.
            timeout: the caller's own limits; the earlier of these and the route's count.
            host: host and port of the URL, if the request's authority (its Host header) says something else.

        Raises:
            UpstreamError: there is no response.
            InvalidRequest: it cannot be written as HTTP/1.1.
        """
        asked = host or request.authority
        destination = self._mesh.destination(asked)
        if destination is None:
            destination = await self._mesh.resolve_async(asked)
        if isinstance(destination, Absent):
            return None
        call = Call(self._mesh, request, body, timeout)
        journey = _Journey(self, call, body)
        machine = exchange(
            destination,
            call.request,
            self._mesh.balancers,
            clock,
            random.random,
            replayable=not call.one_shot,
            until=deadline.of_call(),
        )
        try:
            final = await drive_async(machine, journey.attempt, journey.pause)
        except BaseException as error:
            journey.drop()
            told = call.ended_without_response(error)
            raise told from told.__cause__
        return AsyncResponse(*journey.outcome(final))

    def close(self) -> None:
        """Close the idle connections. Requests under way end undisturbed."""
        for connection in self._pool.drain():
            connection.close()

    async def connection(
        self, call: Call, send: Send, ends: float | None, *, fresh: bool
    ) -> tuple[AsyncConnection, bool] | None:
        """A connection for this try, and whether it was used before; None: too many requests wait for one.

        Args:
            ends: when to wait no longer for one that others use.
            fresh: do not take an idle one.

        Raises:
            OSError, IdentityError: there is none to be had.
        """
        key, tls = call.destined(send)
        if tls is not None:
            _close(self._pool.renew(tls.generation))
        idle = None if fresh else self._idle(key)
        if idle is not None:
            return idle, True
        breaker = send.breaker
        if breaker is None:
            return await self._open(call, send, key, tls, self._pool.discard), False
        turn = await self._turn(key, breaker, call.turn(ends))
        if not isinstance(turn, Slot):
            return None if turn is None else (turn, True)
        return await self._made(call, send, key, tls, breaker, turn)

    def _idle(self, key: Key) -> AsyncConnection | None:
        while True:
            idle, old = self._pool.take(key, clock())
            _close(old)
            if idle is None or (idle.alive() and not worn(idle, clock())):
                return idle
            idle.close()

    async def _open(
        self, call: Call, send: Send, key: Key, tls: ClientTls | None, lost: Callable[[AsyncConnection], None]
    ) -> AsyncConnection:
        if self._keeper is None:
            self._keeper = _keep(self)
            await anext(self._keeper)
        return await AsyncConnection.open(key, call.layer(send, tls), call.connect_seconds(send), lost)

    async def _turn(self, key: Key, breaker: Breaker, limit: Limit) -> AsyncConnection | Slot | None:
        """The right to make a connection, or, after a wait, one that somebody else needs no longer; None: too many wait."""
        slot = self._turns.open(key, breaker)
        if slot is not None:
            return slot
        waiter: asyncio.Future[AsyncConnection | Slot] = asyncio.get_running_loop().create_future()
        if not self._turns.wait(key, waiter, breaker):
            return None
        try:
            async with asyncio.timeout(remaining(limit.at, clock())):
                return await waiter
        except BaseException as error:
            self._turns.leave(key, waiter)
            if waiter.done() and not waiter.cancelled():  # it was our turn already: the next one's, then
                turn = waiter.result()
                turn.free() if isinstance(turn, Slot) else self.release(turn)
            raise (limit.turn_error() if isinstance(error, TimeoutError) else error) from None

    async def _made(
        self, call: Call, send: Send, key: Key, tls: ClientTls | None, breaker: Breaker, slot: Slot
    ) -> tuple[AsyncConnection, bool] | None:
        pending = breaker.pends_while_connecting
        if pending and not breaker.pend():
            slot.free()
            return None
        try:
            return await self._open(call, send, key, tls, partial(self._lost, slot)), False
        except BaseException:
            slot.free()
            raise
        finally:
            if pending:
                breaker.pending.leave()

    def _lost(self, slot: Slot, connection: AsyncConnection) -> None:
        self._pool.discard(connection)
        slot.free()

    def release(self, connection: AsyncConnection) -> None:
        """Take back a connection whose exchange is over."""
        connection.finish()
        if not connection.reusable or worn(connection, clock()):
            connection.close()
        elif connection.key.policy is None or not self._turns.hand(connection.key, connection):
            _close(self._pool.give(connection, clock()))


class _Journey(Tries[AsyncConnection]):
    """The tries of one call, carried out."""

    __slots__ = ("_body", "_client")

    def __init__(self, client: AsyncClient, call: Call, body: AsyncBody) -> None:
        super().__init__(call, client.release)
        self._client = client
        self._body = body

    async def attempt(self, send: Send) -> Response | Failure:
        """One try. A connection that died while it was idle does not count as one."""
        self.drop()
        ends = None if send.timeout is None else clock() + send.timeout
        outcome = await self._try(send, ends, fresh=False)
        if outcome is None:
            outcome = await self._try(send, ends, fresh=True)
        assert outcome is not None, "a fresh connection gives an answer or a failure"
        return outcome

    async def _try(self, send: Send, ends: float | None, *, fresh: bool) -> Response | Failure | None:
        """None: the connection had died while idle."""
        call, started = self._call, clock()
        try:
            found = await self._client.connection(call, send, ends, fresh=fresh)
        except (OSError, IdentityError) as error:
            return call.unconnected(error, call.connect_seconds(send))
        if found is None:
            return OVERFLOW
        connection, reused = found
        if send.breaker is not None and not send.load.begin():
            self._client.release(connection)
            return OVERFLOW
        if not reused or send.breaker is not None:
            call.patience.extend(clock() - started)
        self._connection = connection
        try:
            head = call.head(send, bool(connection.principal))
            self._head = await connection.request(call.request.method, head, self._body, call.framing, call.limits(ends))
        except (OSError, MalformedResponse, BodyFailed) as error:
            self.drop()
            return None if reused and call.may_replay(error, connection.parser) else call.failure(error, connection.parser)
        call.responded(self._head)
        return self._head.facts()

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the caller's patience ends before."""
        self.drop()
        seconds, error = self._call.pause(seconds)
        await asyncio.sleep(seconds)
        if error is not None:
            raise error


class AsyncResponse(Answer[AsyncConnection]):
    """A response whose head is here. Iterate it for the body, once; `close` it if not to the end."""

    __slots__ = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            UpstreamError: the body broke off.
        """
        held = self._held
        if held is None:
            return self._take_rest()
        try:
            piece = await held.connection.read(held.delivery.limit())
        except BaseException as error:
            told = self._broken(held, error)
            raise told from told.__cause__
        return self._received(held, piece)

    def __del__(self) -> None:
        """Forgotten before its end: the endpoint must not count as busy for ever. May run in any thread."""
        if self._held is not None:
            self._held.connection.abort_from_anywhere()
            self._held.delivery.left()


def _close(connections: list[AsyncConnection]) -> None:
    for connection in connections:
        connection.close()


async def _keep(client: AsyncClient) -> AsyncGenerator[None]:
    """An event loop tells nobody that it ends, except the asynchronous generators that are under way: this is one."""
    try:
        yield
    finally:
        client.close()
        client._keeper = None  # it knows the loop, which would never be freed
