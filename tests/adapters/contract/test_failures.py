"""What every client library on the mesh says when something goes wrong, and what it does not let go wrong."""

import asyncio
import contextlib
import socket

import pytest

from meshlib.config.model import Abort, Delay, Fault, RetryPolicy
from tests.adapters.contract.conftest import REVIEWS, Scene
from tests.support.mesh import ISTIO_RETRY, endpoint
from tests.support.pki import Authority, spiffe
from tests.support.ports import free_port
from tests.support.upstream import Upstream


def note_of(error: BaseException) -> str:
    """What the mesh added to the library's exception."""
    return "\n".join(getattr(error, "__notes__", []))


async def test_nobody_listens(scene: Scene) -> None:
    """Connecting fails on every try: the library's connection error, with flag, endpoint and attempt in the note."""
    port = free_port()
    scene.configure(endpoints={"v1": [endpoint(port, tls=True)]})
    with pytest.raises(scene.caller.errors.connect) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/who")
    assert "UF" in note_of(caught.value)
    assert f"endpoint 127.0.0.1:{port}, attempt 3" in note_of(caught.value)
    assert caught.value.request.method == "GET"  # type: ignore[attr-defined]
    assert scene.flags == ["UF,URX"] or scene.flags == ["UF"]


async def test_no_endpoint(scene: Scene) -> None:
    """A cluster without endpoints is a connection error with UH."""
    scene.configure(endpoints={"v1": []})
    with pytest.raises(scene.caller.errors.connect) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/who")
    assert "UH: no healthy endpoint" in note_of(caught.value)


async def test_wrong_identity_is_refused(scene: Scene) -> None:
    """A server with a good chain and another identity gets not one byte of the request."""
    scene.configure(sans=[spiffe("ratings")])
    with pytest.raises(scene.caller.errors.connect) as caught:
        await scene.caller.call("POST", f"{REVIEWS}/who", content=b"secret")
    assert "the peer 127.0.0.1:" in note_of(caught.value)
    assert f"is {spiffe('reviews')}, expected {spiffe('ratings')}" in note_of(caught.value)
    assert scene.upstream.requests == []


async def test_foreign_authority_is_refused(scene: Scene) -> None:
    """A server whose chain ends elsewhere gets not one byte of the request."""
    stranger = Authority("stranger")
    with Upstream("v1", stranger.server_context(stranger.issue("reviews"))) as foreign:
        scene.configure(endpoints={"v1": [endpoint(foreign.port, tls=True)]})
        with pytest.raises(scene.caller.errors.connect) as caught:
            await scene.caller.call("GET", f"{REVIEWS}/who")
    assert "CERTIFICATE_VERIFY_FAILED" in note_of(caught.value)
    assert foreign.requests == []


async def test_plain_text_server_where_tls_is_expected(scene: Scene) -> None:
    """A server that does not speak TLS is a connection error, not a hang."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as plain:
        scene.configure(endpoints={"v1": [endpoint(plain.sockets[0].getsockname()[1], tls=True)]}, retry=None)
        with pytest.raises(scene.caller.errors.connect) as caught:
            await scene.caller.call("GET", f"{REVIEWS}/who")
    assert "UF" in note_of(caught.value)


async def test_no_handshake_in_time(scene: Scene) -> None:
    """A port that accepts and stays silent meets the cluster's connect timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        scene.configure(endpoints={"v1": [endpoint(port, tls=True)]}, connect_timeout=0.1, retry=None)
        with pytest.raises(scene.caller.errors.connect_timeout) as caught:
            await scene.caller.call("GET", f"{REVIEWS}/who")
    assert "no connection within 0.1 s" in note_of(caught.value)


async def test_closed_without_response(scene: Scene) -> None:
    """An orderly close instead of a response is the library's exception for it, with UC."""
    with pytest.raises(scene.caller.errors.closed) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/silent")
    assert "UC: the peer closed the connection without sending a response" in note_of(caught.value)
    assert scene.upstream.seen["/silent"] == 1


async def test_body_cut_short(scene: Scene) -> None:
    """A body that ends before its length is an error, never a short body."""
    with pytest.raises(scene.caller.errors.broken_body) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/cut")
    assert "UPE: while the response's body was read" in note_of(caught.value)
    assert scene.flags == ["UPE"]


async def test_not_http(scene: Scene) -> None:
    """Bytes that are not HTTP are a protocol error with UPE."""
    with pytest.raises(scene.caller.errors.malformed) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/garbage")
    assert "UPE" in note_of(caught.value)


async def test_upgrade_is_refused(scene: Scene) -> None:
    """The offer to upgrade is not passed on; a peer that switches all the same is a protocol error."""
    with pytest.raises(scene.caller.errors.malformed):
        await scene.caller.call("GET", f"{REVIEWS}/switch", headers={"Connection": "upgrade", "Upgrade": "chat"})
    assert "upgrade" not in scene.upstream.requests[0].headers


async def test_read_timeout_of_the_caller(scene: Scene) -> None:
    """The caller's own timeout counts where it is the earlier, once and without another try; the flag is DC."""
    scene.configure(timeout=5.0)
    with pytest.raises(scene.caller.errors.read_timeout) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/slow?seconds=3", timeout=0.15)
    assert "the caller's read timeout of 0.15 s passed" in note_of(caught.value)
    assert scene.upstream.seen["/slow"] == 1
    assert scene.flags == ["DC"]


async def test_timeout_of_the_route(scene: Scene) -> None:
    """The route's timeout counts where it is the earlier; the flag is UT."""
    scene.configure(timeout=0.15)
    with pytest.raises(scene.caller.errors.read_timeout) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/slow?seconds=3")
    assert "UT: " in note_of(caught.value)
    assert scene.flags == ["UT"]


async def test_timeout_of_the_route_covers_the_body(scene: Scene) -> None:
    """A response that has begun is bounded, too."""
    scene.configure(timeout=0.2)
    with pytest.raises(scene.caller.errors.body_timeout) as caught:
        await scene.caller.call("GET", f"{REVIEWS}/slow-body?seconds=3")
    assert "UT: while the response's body was read" in note_of(caught.value)


async def test_read_timeout_of_the_caller_within_the_body(scene: Scene) -> None:
    """The caller's read timeout holds for each wait within the body."""
    with pytest.raises(scene.caller.errors.body_timeout):
        await scene.caller.call("GET", f"{REVIEWS}/slow-body?seconds=3", timeout=0.2)


async def test_retry_until_it_works(scene: Scene) -> None:
    """503 twice, then 200: the caller sees 200, the server three tries with their numbers."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/status?code=503&times=2")
    assert (reply.status, reply.body) == (200, b"answered")
    tries = [request.headers["x-envoy-attempt-count"] for request in scene.upstream.requests]
    assert tries == ["1", "2", "3"]
    assert scene.mesh.events[0].attempts == 3


async def test_retries_used_up(scene: Scene) -> None:
    """The last 503 is the caller's response, as with Envoy."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/status?code=503")
    assert (reply.status, reply.body) == (503, b"answered")
    assert scene.flags == ["URX"]


async def test_retry_sends_the_body_again(scene: Scene) -> None:
    """Bytes can be sent again."""
    await scene.caller.call("POST", f"{REVIEWS}/status?code=503&times=1", content=b"again")
    assert [request.body for request in scene.upstream.requests] == [b"again", b"again"]


async def test_stream_is_sent_once(scene: Scene) -> None:
    """An iterable cannot be sent again: the caller gets the first answer."""
    reply = await scene.caller.call("POST", f"{REVIEWS}/status?code=503&times=1", content=[b"once"])
    assert reply.status == 503
    assert len(scene.upstream.requests) == 1


async def test_retry_goes_to_another_endpoint(scene: Scene) -> None:
    """A dead instance costs a try, not a request."""
    alive = scene.upstream.port
    scene.configure(endpoints={"v1": [endpoint(free_port(), tls=True), endpoint(alive, tls=True)]})
    for _ in range(10):
        assert (await scene.caller.call("GET", f"{REVIEWS}/who")).status == 200


async def test_retry_after_per_try_timeout(scene: Scene) -> None:
    """A try that takes too long is given up for the next one."""
    policy = RetryPolicy(ISTIO_RETRY.retry_on | {"5xx"}, retries=1, per_try_timeout=0.5, backoff_base=0.001)
    scene.configure(timeout=5.0, retry=policy)
    with pytest.raises(scene.caller.errors.read_timeout):
        await scene.caller.call("GET", f"{REVIEWS}/slow?seconds=5")
    assert scene.upstream.seen["/slow"] == 2


async def test_weights(scene: Scene, authority: Authority) -> None:
    """Traffic is split by weight, also over pooled connections."""
    with Upstream("v3", authority.server_context(authority.issue("reviews"))) as other:
        endpoints = {"v1": [endpoint(scene.upstream.port, tls=True)], "v3": [endpoint(other.port, tls=True)]}
        scene.configure(endpoints=endpoints, weights={"v1": 50, "v3": 50})
        replies = [await scene.caller.call("GET", f"{REVIEWS}/who") for _ in range(200)]
    assert 60 <= [reply.body for reply in replies].count(b"v3") <= 140


async def test_fault_abort(scene: Scene) -> None:
    """An injected abort is a response, and nothing reaches the server."""
    scene.configure(fault=Fault(abort=Abort(1.0, http_status=500)))
    reply = await scene.caller.call("GET", f"{REVIEWS}/who")
    assert (reply.status, reply.body, reply.reason) == (500, b"fault filter abort", "Internal Server Error")
    assert scene.upstream.requests == []
    assert scene.flags == ["FI"]


async def test_fault_delay(scene: Scene) -> None:
    """An injected delay holds the request back; the caller's patience runs meanwhile."""
    scene.configure(fault=Fault(delay=Delay(1.0, seconds=0.1)))
    assert (await scene.caller.call("GET", f"{REVIEWS}/who")).status == 200
    scene.configure(fault=Fault(delay=Delay(1.0, seconds=3.0)))
    with pytest.raises(scene.caller.errors.read_timeout):
        await scene.caller.call("GET", f"{REVIEWS}/who", timeout=0.1)
    assert scene.flags == ["DI", "DC"]


async def test_host_outside_the_mesh(scene: Scene) -> None:
    """What is not in the mesh goes the library's ordinary way, without the mesh's headers."""
    with Upstream("outside") as outside:
        reply = await scene.caller.call("GET", f"http://127.0.0.1:{outside.port}/who")
        local = await scene.caller.call("GET", f"http://localhost:{outside.port}/who")
    assert (reply.body, local.body, reply.sighting) == (b"outside", b"outside", None)
    assert "x-request-id" not in outside.requests[0].headers


async def test_unknown_host_is_asked_for_once_and_found(scene: Scene) -> None:
    """The first request to a host waits for its configuration."""
    known = scene.mesh.snapshot.destination("reviews:9080")
    scene.mesh.unresolved["books:9080"] = known  # type: ignore[assignment]
    scene.mesh.resolve("nothing")
    scene.configure()
    reply = await scene.caller.call("GET", "http://books:9080/who")
    assert reply.body == b"v1"
    assert scene.mesh.asked == ["nothing", "books:9080"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_connection_that_died_while_idle(scene: Scene, method: str) -> None:
    """A peer that closed an idle connection costs nobody a request."""
    for _ in range(5):
        content = b"x" if method == "PUT" else None
        assert (await scene.caller.call(method, f"{REVIEWS}/who", content=content)).status == 200
        scene.upstream.drop_connections()
    assert scene.flags == ["-"] * 5


async def test_peer_that_closes_after_each_response(scene: Scene) -> None:
    """With and without a warning: the next request, also a POST, is not lost."""
    for path in ("/say-close", "/quiet-close") * 4:
        assert (await scene.caller.call("GET", f"{REVIEWS}{path}")).body == b"bye"
        await asyncio.sleep(0.01)
        assert (await scene.caller.call("POST", f"{REVIEWS}/who", content=b"x")).body == b"v1"


async def test_surplus_response_is_not_taken_for_the_next(scene: Scene) -> None:
    """A connection on which more came than was asked for is used no more."""
    assert (await scene.caller.call("GET", f"{REVIEWS}/twice")).body == b"a"
    assert (await scene.caller.call("GET", f"{REVIEWS}/who")).body == b"v1"
    assert scene.upstream.connections == 2


async def test_new_certificate_closes_idle_connections(scene: Scene) -> None:
    """After a rotation new connections show the new certificate; no request fails."""
    await scene.caller.call("GET", f"{REVIEWS}/who")
    scene.mesh.certificates.rotate()
    await scene.caller.call("GET", f"{REVIEWS}/who")
    assert scene.upstream.connections == 2
    assert scene.flags == ["-", "-"]


async def test_loads_are_released(scene: Scene) -> None:
    """Whatever happened, no endpoint counts as busy afterwards."""
    known = scene.mesh.snapshot.destinations["reviews:9080"]
    for path in ("/who", "/silent", "/cut", "/garbage", "/status?code=503", "/slow?seconds=1"):
        with contextlib.suppress(Exception):  # each library has its own, and other tests look at them
            await scene.caller.call("GET", f"{REVIEWS}{path}", timeout=0.1)
    assert len(scene.mesh.events) == 6
    cluster = next(iter(known.clusters.values()))
    balancer = scene.mesh.balancers.of(cluster, known.assignments[cluster.name])
    assert balancer.active(("127.0.0.1", scene.upstream.port)) == 0
