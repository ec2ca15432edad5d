"""What is particular to the two shells: loops, threads, forks, cancellation. The adapters' contract tests what they share."""

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from meshlib.errors import InvalidRequest, NoCertificate, UpstreamError, UpstreamTimeout
from meshlib.facts import Request
from meshlib.runtime.client_async import AsyncClient
from meshlib.runtime.timing import Timeout
from meshlib.telemetry import deadline
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=[True, False], ids=["mtls", "plain"])
def upstream(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Upstream]:
    context = authority.server_context(authority.issue("reviews")) if request.param else None
    with Upstream("v1", context) as server:
        yield server


@pytest.fixture
def mesh(authority: Authority, upstream: Upstream) -> Iterator[LocalMesh]:
    made = LocalMesh(authority)
    one = endpoint(upstream.port, tls=upstream.context is not None)
    made.know(destination("reviews:9080", {"v1": [one]}, sans=[spiffe("reviews")] if one.tls else []))
    yield made
    made.client().close()


def get(path: str, method: str = "GET") -> Request:
    return Request(method, "http", "reviews:9080", path)


async def body_of(mesh: LocalMesh, path: str) -> bytes:
    response = await mesh.async_client().send(get(path))
    assert response is not None
    return b"".join([piece async for piece in response])


def busy(mesh: LocalMesh, upstream: Upstream) -> int:
    """Requests in flight, as the balancer counts."""
    known = mesh.snapshot.destinations["reviews:9080"]
    cluster = next(iter(known.clusters.values()))
    return mesh.balancers.of(cluster, known.assignments[cluster.name]).active(("127.0.0.1", upstream.port))


@pytest.mark.parametrize("path", ["/slow?seconds=1", "/slow-body?seconds=1"])
async def test_cancellation_closes_the_connection_and_releases_the_load(
    mesh: LocalMesh, upstream: Upstream, path: str
) -> None:
    """Before and within the response; nothing stays behind, and telemetry hears who left."""
    task = asyncio.create_task(body_of(mesh, path))
    await asyncio.sleep(0.1)
    assert busy(mesh, upstream) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert busy(mesh, upstream) == 0
    assert [event.flags for event in mesh.events] == ["DC"]
    assert await asyncio.to_thread(upstream.disconnected.wait, 5)
    assert await body_of(mesh, "/who") == b"v1"


async def test_forgotten_response_releases_the_load(mesh: LocalMesh, upstream: Upstream) -> None:
    """Nobody closes it, nobody holds it: its connection closes and its endpoint is free again."""
    responses = [
        await mesh.async_client().send(get("/large?size=50000000")),
        mesh.client().send(get("/large?size=50000000")),
    ]
    assert busy(mesh, upstream) == 2
    responses.clear()
    assert busy(mesh, upstream) == 0
    await asyncio.sleep(0)
    assert await asyncio.to_thread(upstream.disconnected.wait, 5)


async def test_cancellation_of_an_upload(mesh: LocalMesh, upstream: Upstream) -> None:
    """The task that sends the body ends with the request."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    task = asyncio.create_task(mesh.async_client().send(get("/echo", "POST"), endless()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert busy(mesh, upstream) == 0


@pytest.mark.parametrize("reads", [0.3, None])
async def test_upload_that_stalls_meets_the_write_timeout(mesh: LocalMesh, reads: float | None) -> None:
    """A peer that takes nothing more; the read timeout does not run meanwhile."""
    timeout = Timeout(read=reads, write=0.6)
    pieces = [b"x" * 1_000_000] * 40
    with pytest.raises(UpstreamTimeout, match=r"write timeout of 0\.6 s"):
        mesh.client().send(get("/stall", "POST"), iter(pieces), timeout=timeout)

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    with pytest.raises(UpstreamTimeout, match=r"write timeout of 0\.6 s"):
        await mesh.async_client().send(get("/stall", "POST"), stream(), timeout=timeout)


async def test_what_nobody_reads_of_a_body_keeps_no_socket(mesh: LocalMesh) -> None:
    """The answer came before the body was read: what is left of it is dropped with the connection, not kept for a reader."""

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b"x" * 65_536

    response = await mesh.async_client().send(get("/early", "POST"), stream())
    assert response is not None
    assert b"".join([piece async for piece in response]) == b"too much"
    sockets = [one for one in gc.get_objects() if type(one).__name__ == "_SelectorSocketTransport"]
    assert [one for one in sockets if one.get_write_buffer_size()] == []


async def test_read_timeout_starts_when_the_body_is_out(mesh: LocalMesh) -> None:
    """A slow body of the caller's own is not the peer's fault."""

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.1)
            yield b"x"

    response = await mesh.async_client().send(get("/who", "POST"), slow(), timeout=Timeout(read=0.3))
    assert response is not None
    assert response.status == 200


async def test_errors_of_the_callers_own_body_are_the_callers(mesh: LocalMesh, upstream: Upstream) -> None:
    """What the iterator raises comes out as it is, whatever it is, and is no reason to try again."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError("mine")

    def failing_too() -> Iterator[bytes]:
        yield b"x"
        raise ConnectionResetError("mine")

    with pytest.raises(ConnectionResetError, match="mine"):
        await mesh.async_client().send(get("/who", "POST"), failing())
    with pytest.raises(ConnectionResetError, match="mine"):
        mesh.client().send(get("/who", "POST"), failing_too())
    assert busy(mesh, upstream) == 0


async def test_body_that_does_not_fit_its_length(mesh: LocalMesh) -> None:
    """The announced length is kept, or the request is not one."""
    request = Request("POST", "http", "reviews:9080", "/who", (("content-length", "3"),))
    with pytest.raises(InvalidRequest, match="ended after 1 of 3"):
        mesh.client().send(request, iter([b"x"]))


def test_one_client_on_two_event_loops(mesh: LocalMesh, upstream: Upstream) -> None:
    """Each loop has its own connections; a closed loop leaves none behind and can be collected."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def twice() -> list[bytes]:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return [await body_of(mesh, "/who"), await body_of(mesh, "/who")]

    assert asyncio.run(twice()) == asyncio.run(twice()) == [b"v1", b"v1"]
    assert upstream.connections == 2
    gc.collect()
    assert [loop() for loop in loops] == [None, None]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_connections_end_with_their_loop(
    mesh: LocalMesh, upstream: Upstream, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A runner leaves no open socket: the server sees the connection go."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(body_of(mesh, "/who")) == b"v1"
        assert not upstream.disconnected.is_set()
    assert upstream.disconnected.wait(5)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_program_that_blocks_its_loop(
    mesh: LocalMesh, upstream: Upstream, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A connection that the peer closed while nobody ran the loop is not used, not even for a POST."""

    async def work() -> int:
        await body_of(mesh, "/who")
        upstream.drop_connections()  # blocks this loop until the peer has closed
        response = await mesh.async_client().send(get("/who", "POST"), b"x")
        return response.status if response else 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(work()) == 200


def test_two_loops_at_once(mesh: LocalMesh, upstream: Upstream) -> None:
    """Loops in threads do not share connections and do not disturb each other."""
    found: list[bytes] = []

    async def several() -> None:
        found.extend(await asyncio.gather(*(body_of(mesh, "/who") for _ in range(20))))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [b"v1"] * 40


def test_threads_share_the_pool(mesh: LocalMesh, upstream: Upstream) -> None:
    """Many threads, each gets its own answers, and no more connections than threads."""
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(10):
            response = mesh.client().send(get(f"/echo?n={number}-{turn}"))
            if response is None or f"n={number}-{turn}" not in b"".join(response).decode():
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert wrong == []
    assert upstream.connections <= 8


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_makes_its_own_connections(mesh: LocalMesh, upstream: Upstream) -> None:
    """The parent's connection is not used, not closed and not said goodbye on by the child."""
    assert b"".join(mesh.client().send(get("/who")) or []) == b"v1"
    mesh.client()._lock.acquire()  # as if another thread were just inside when the fork happens
    pid = os.fork()
    if pid == 0:
        good = b"".join(mesh.client().send(get("/who")) or []) == b"v1"
        os._exit(0 if good else 1)
    mesh.client()._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"".join(mesh.client().send(get("/who")) or []) == b"v1"
    assert upstream.connections == 2


async def test_without_certificate_nothing_is_sent(mesh: LocalMesh, upstream: Upstream) -> None:
    """Mutual TLS that cannot be had is an error, never plain text; a plain endpoint needs no certificate."""
    mesh.certificates._client = None
    if upstream.context is None:
        assert await body_of(mesh, "/who") == b"v1"
        return
    for send in (lambda: mesh.async_client().send(get("/who")), lambda: asyncio.to_thread(mesh.client().send, get("/who"))):
        with pytest.raises(UpstreamError) as caught:
            await send()
        assert isinstance(caught.value.__cause__, NoCertificate)
    assert upstream.connections == 0


async def test_what_is_left_of_the_served_request_limits_what_it_causes(mesh: LocalMesh) -> None:
    """Both clients give up when the caller of the request being served does."""
    token = deadline.enter(time.monotonic() + 0.3)
    try:
        for send in (mesh.async_client().send, lambda get: asyncio.to_thread(mesh.client().send, get)):
            with pytest.raises(UpstreamTimeout, match="the caller's deadline passed"):
                await send(get("/slow?seconds=5"))
    finally:
        deadline.leave(token)


async def test_response_reads_ahead_within_bounds(mesh: LocalMesh, upstream: Upstream) -> None:
    """A response that nobody reads stops coming, and goes on when somebody does."""
    response = await mesh.async_client().send(get("/large?size=60000000"))
    assert response is not None
    await asyncio.sleep(0.3)
    assert upstream.seen["sent"] < 30_000_000
    assert sum([len(piece) async for piece in response]) == 60_000_000


async def test_debugging_view(mesh: LocalMesh) -> None:
    """A client says how many connections wait."""
    await body_of(mesh, "/who")
    assert "1 idle to 1 endpoints" in repr(mesh.async_client())
    assert isinstance(mesh.async_client(), AsyncClient)
