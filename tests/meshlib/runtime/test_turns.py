from __future__ import annotations

from concurrent.futures import Future

from meshlib.config.protection import CircuitBreakers
from meshlib.outbound.limits import Breaker
from meshlib.runtime.pool import Key
from meshlib.runtime.turns import Slot, Turns

A, B = Key("127.0.0.1", 1, frozenset(), 0), Key("127.0.0.1", 2, frozenset(), 0)
ONE = CircuitBreakers(max_connections=1, max_pending_requests=2)


def waiting(turns: Turns[str], breaker: Breaker) -> Future[str | Slot]:
    waiter: Future[str | Slot] = Future()
    assert turns.wait(A, waiter, breaker)
    return waiter


def test_the_oldest_first_and_pending_until_then() -> None:
    """A freed connection goes to who waits longest, and so does the right to make one in place of one that ended."""
    turns, breaker = Turns[str](), Breaker(ONE)
    slot = turns.open(A, breaker)
    assert slot is not None
    assert turns.open(A, breaker) is None
    first, second = waiting(turns, breaker), waiting(turns, breaker)
    assert not turns.wait(A, Future(), breaker)
    assert turns.hand(A, "connection")
    assert (first.result(), len(breaker.pending)) == ("connection", 1)
    slot.free()
    slot.free()
    assert isinstance(second.result(), Slot)
    assert (len(breaker.connections), len(breaker.pending)) == (1, 0)
    assert not turns.hand(A, "connection")


def test_who_gave_up_is_passed_over() -> None:
    """Whether it said so or not."""
    turns, breaker = Turns[str](), Breaker(ONE)
    turns.open(A, breaker)
    gone, left = waiting(turns, breaker), waiting(turns, breaker)
    turns.leave(A, left)
    turns.leave(A, left)
    gone.cancel()
    assert not turns.hand(A, "connection")
    assert len(breaker.pending) == 0


def test_each_endpoint_may_have_one() -> None:
    """Whatever the limit; what ends there gives nobody elsewhere a turn."""
    turns, breaker = Turns[str](), Breaker(ONE)
    turns.open(A, breaker)
    other = turns.open(B, breaker)
    assert other is not None
    waiter = waiting(turns, breaker)
    other.free()
    assert not waiter.done()
