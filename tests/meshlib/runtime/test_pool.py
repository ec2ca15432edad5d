from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import Cluster, Endpoint, UpstreamTls
from meshlib.runtime.pool import IDLE_SECONDS, Key, Pool, key_of

SANS = frozenset({"spiffe://a"})


@dataclass(frozen=True, eq=False)
class Connection:
    key: Key


def plain(port: int = 1) -> Connection:
    return Connection(Key("127.0.0.1", port, frozenset(), 0))


def secured(generation: int) -> Connection:
    return Connection(Key("127.0.0.1", 1, SANS, generation))


def test_newest_first() -> None:
    """The connection used last is used next, so that the others may grow old."""
    pool: Pool[Connection] = Pool()
    old, new = plain(), plain()
    pool.give(old, 0.0)
    pool.give(new, 1.0)
    assert pool.take(new.key, 1.0) == (new, [])
    assert pool.take(new.key, 1.0) == (old, [])
    assert pool.take(new.key, 1.0) == (None, [])


def test_too_old_are_closed() -> None:
    """Where the newest is too old, all are."""
    pool: Pool[Connection] = Pool(idle_seconds=2.0)
    first, second = plain(), plain()
    pool.give(first, 10.0)
    pool.give(second, 10.5)
    assert pool.take(first.key, 13.0) == (None, [second, first])
    assert len(pool) == 0


def test_giving_sweeps_elsewhere() -> None:
    """Connections to endpoints that nobody asks for any more are closed, too."""
    pool: Pool[Connection] = Pool(idle_seconds=2.0)
    forgotten, used = plain(1), plain(2)
    pool.give(forgotten, 10.0)
    assert pool.give(used, 12.5) == [forgotten]
    assert pool.take(used.key, 12.5) == (used, [])


def test_new_certificate() -> None:
    """Idle connections of an older certificate are closed, those in use when they come back; plain text is not concerned."""
    pool: Pool[Connection] = Pool()
    idle, busy, bare = secured(1), secured(1), plain()
    pool.give(idle, 0.0)
    pool.give(bare, 0.0)
    assert pool.renew(2) == [idle]
    assert pool.renew(2) == []
    assert pool.give(busy, 0.0) == [busy]
    assert pool.drain() == [bare]


def test_died_while_idle() -> None:
    """A connection that the event loop saw dying is forgotten; forgetting it twice changes nothing."""
    pool: Pool[Connection] = Pool()
    dead, alive = plain(), plain()
    pool.give(dead, 0.0)
    pool.give(alive, 0.0)
    pool.discard(dead)
    pool.discard(dead)
    assert pool.drain() == [alive]


def test_key_tells_identities_and_generations_apart() -> None:
    """Plain text has neither; a TLS cluster's plain endpoint is plain."""
    cluster = Cluster("c", tls=UpstreamTls("sni", SANS))
    assert key_of(Endpoint("10.0.0.1", 80, tls=True), cluster, 3) == ("10.0.0.1", 80, SANS, 3, None)
    assert key_of(Endpoint("10.0.0.1", 80, tls=False), cluster, 3) == ("10.0.0.1", 80, frozenset(), 0, None)
    assert key_of(Endpoint("10.0.0.1", 80, tls=True), Cluster("c"), 3) == ("10.0.0.1", 80, frozenset(), 0, None)


@given(st.lists(st.tuples(st.sampled_from(["take", "give", "renew"]), st.integers(1, 3), st.floats(0, 2 * IDLE_SECONDS))))
def test_no_connection_is_lost_or_handed_out_twice(steps: list[tuple[str, int, float]]) -> None:
    """Whatever the order: each connection is idle, in use or closed, and only one of these."""
    pool: Pool[Connection] = Pool()
    made: set[Connection] = set()
    used: list[Connection] = []
    closed: list[Connection] = []
    now = 0.0
    for step, generation, passed in steps:
        now += passed
        if step == "take":
            taken, old = pool.take(secured(generation).key, now)
            closed += old
            connection = taken or secured(generation)
            assert connection not in used
            assert connection not in closed
            made.add(connection)
            used.append(connection)
        elif step == "give" and used:
            closed += pool.give(used.pop(), now)
        elif step == "renew":
            closed += pool.renew(generation)
    idle = pool.drain()
    assert len(idle) + len(used) + len(closed) == len(made) == len({*idle, *used, *closed})
