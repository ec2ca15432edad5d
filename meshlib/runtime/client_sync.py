"""The blocking client: `outbound.exchange` carried out over pooled connections, for any number of threads. Same shape as
`client_async`.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from meshlib.config.snapshot import Absent
from meshlib.errors import IdentityError
from meshlib.facts import Failure, Request, Response
from meshlib.outbound.exchange import OVERFLOW, Send, exchange
from meshlib.outbound.limits import Breaker
from meshlib.runtime.answer import Answer, Tries
from meshlib.runtime.call import Call, ClientTls, Joined, clock
from meshlib.runtime.connection_sync import SyncConnection
from meshlib.runtime.drive import drive_sync
from meshlib.runtime.http1 import BodyFailed, MalformedResponse
from meshlib.runtime.pool import Key, Pool, worn
from meshlib.runtime.timing import NO_TIMEOUT, Limit, Timeout, remaining
from meshlib.runtime.turns import Slot, Turns
from meshlib.telemetry import deadline

SyncBody = bytes | Iterable[bytes] | None


class SyncClient:
    """Sends requests through the mesh from any thread. `Mesh.client()` keeps one; a forked child starts with an empty pool."""

    def __init__(self, mesh: Joined) -> None:
        self._mesh = mesh
        self._start_empty()
        _clients.add(self)

    def __repr__(self) -> str:
        return f"<SyncClient {self._pool!r}>"

    def send(
        self, request: Request, body: SyncBody = None, *, timeout: Timeout = NO_TIMEOUT, host: str = ""
    ) -> SyncResponse | None:
        """Send a request and give its response, the body still to be read; None: the host is not in the mesh.

        Args:
            body: an iterable is consumed once, and no further once the peer has answered.
            timeout: the caller's own limits; the earlier of these and the route's count.
            host: host and port of the URL, if the request's authority (its Host header) says something else.

        Raises:
            UpstreamError: there is no response.
            InvalidRequest: it cannot be written as HTTP/1.1.
        """
        asked = host or request.authority
        destination = self._mesh.destination(asked)
        if destination is None:
            destination = self._mesh.resolve(asked)
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
            final = drive_sync(machine, journey.attempt, journey.pause)
        except BaseException as error:
            journey.drop()
            told = call.ended_without_response(error)
            raise told from told.__cause__
        return SyncResponse(*journey.outcome(final))

    def close(self) -> None:
        """Close the idle connections. Requests under way end undisturbed."""
        with self._lock:
            idle = self._pool.drain()
        _close(idle)

    def connection(self, call: Call, send: Send, ends: float | None, *, fresh: bool) -> tuple[SyncConnection, bool] | None:
        """A connection for this try, and whether it was used before; None: too many requests wait for one.

        Args:
            ends: when to wait no longer for one that others use.
            fresh: do not take an idle one.

        Raises:
            OSError, IdentityError: there is none to be had.
        """
        key, tls = call.destined(send)
        idle = None if fresh else self._idle(key, tls)
        if idle is not None:
            return idle, True
        breaker = send.breaker
        if breaker is None:
            return SyncConnection.open(key, call.layer(send, tls), call.connect_seconds(send)), False
        turn = self._turn(key, breaker, call.turn(ends))
        if not isinstance(turn, Slot):
            return None if turn is None else (turn, True)
        return self._made(call, send, key, tls, breaker, turn)

    def _idle(self, key: Key, tls: ClientTls | None) -> SyncConnection | None:
        while True:
            with self._lock:
                old = self._pool.renew(tls.generation) if tls is not None else []
                idle, older = self._pool.take(key, clock())
            _close(old + older)
            if idle is None or (idle.alive() and not worn(idle, clock())):
                return idle
            idle.close()

    def _turn(self, key: Key, breaker: Breaker, limit: Limit) -> SyncConnection | Slot | None:
        """The right to make a connection, or, after a wait, one that somebody else needs no longer; None: too many wait."""
        waiter: Future[SyncConnection | Slot] = Future()
        with self._lock:
            slot = self._turns.open(key, breaker)
            if slot is not None:
                return slot
            if not self._turns.wait(key, waiter, breaker):
                return None
        try:
            return waiter.result(remaining(limit.at, clock()))
        except BaseException as error:
            with self._lock:
                self._turns.leave(key, waiter)
            if waiter.done():  # it was our turn already: the next one's, then
                turn = waiter.result()
                self._lost(turn) if isinstance(turn, Slot) else self.release(turn)
            raise (limit.turn_error() if isinstance(error, TimeoutError) else error) from None

    def _made(
        self, call: Call, send: Send, key: Key, tls: ClientTls | None, breaker: Breaker, slot: Slot
    ) -> tuple[SyncConnection, bool] | None:
        pending = breaker.pends_while_connecting
        if pending and not breaker.pend():
            self._lost(slot)
            return None
        try:
            connection = SyncConnection.open(key, call.layer(send, tls), call.connect_seconds(send))
        except BaseException:
            self._lost(slot)
            raise
        finally:
            if pending:
                breaker.pending.leave()
        connection.lost = partial(self._lost, slot)
        return connection, False

    def _lost(self, slot: Slot) -> None:
        with self._lock:
            slot.free()

    def release(self, connection: SyncConnection) -> None:
        """Take back a connection whose exchange is over."""
        if not connection.reusable or worn(connection, clock()):
            connection.close()
            return
        with self._lock:
            handed = connection.key.policy is not None and self._turns.hand(connection.key, connection)
            old = [] if handed else self._pool.give(connection, clock())
        _close(old)

    def forget(self) -> None:
        """In a forked child: the connections are the parent's, and so may be a held lock. Nothing is said on them."""
        inherited = self._pool.drain()
        self._start_empty()
        for connection in inherited:
            connection.abort()

    def _start_empty(self) -> None:
        self._pool: Pool[SyncConnection] = Pool()
        self._turns: Turns[SyncConnection] = Turns()
        self._lock = threading.RLock()  # a forgotten response may be collected, and its connection closed, while it is held


class _Journey(Tries[SyncConnection]):
    """The tries of one call, carried out."""

    __slots__ = ("_body", "_client")

    def __init__(self, client: SyncClient, call: Call, body: SyncBody) -> None:
        super().__init__(call, client.release)
        self._client = client
        self._body = body

    def attempt(self, send: Send) -> Response | Failure:
        """One try. A connection that died while it was idle does not count as one."""
        self.drop()
        ends = None if send.timeout is None else clock() + send.timeout
        outcome = self._try(send, ends, fresh=False)
        if outcome is None:
            outcome = self._try(send, ends, fresh=True)
        assert outcome is not None, "a fresh connection gives an answer or a failure"
        return outcome

    def _try(self, send: Send, ends: float | None, *, fresh: bool) -> Response | Failure | None:
        """None: the connection had died while idle."""
        call, started = self._call, clock()
        try:
            found = self._client.connection(call, send, ends, fresh=fresh)
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
            self._head = connection.request(call.request.method, head, self._body, call.framing, call.limits(ends))
        except (OSError, MalformedResponse, BodyFailed) as error:
            self.drop()
            return None if reused and call.may_replay(error, connection.parser) else call.failure(error, connection.parser)
        call.responded(self._head)
        return self._head.facts()

    def pause(self, seconds: float) -> None:
        """Sleep, unless the caller's patience ends before."""
        self.drop()
        seconds, error = self._call.pause(seconds)
        time.sleep(seconds)
        if error is not None:
            raise error


class SyncResponse(Answer[SyncConnection]):
    """A response whose head is here. Iterate it for the body, once; `close` it if not to the end."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece

    def read(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            UpstreamError: the body broke off.
        """
        held = self._held
        if held is None:
            return self._take_rest()
        try:
            piece = held.connection.read(held.delivery.limit())
        except BaseException as error:
            told = self._broken(held, error)
            raise told from told.__cause__
        return self._received(held, piece)

    def __del__(self) -> None:
        """Forgotten before its end: the endpoint must not count as busy for ever."""
        self.close()


def _close(connections: list[SyncConnection]) -> None:
    for connection in connections:
        connection.close()


_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()


def _forget_all() -> None:
    for client in list(_clients):
        client.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
