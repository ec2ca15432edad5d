"""What every client library on the mesh does with ordinary requests and responses."""

import asyncio
import json

import pytest

from tests.adapters.contract.conftest import REVIEWS, Scene


async def test_get(scene: Scene) -> None:
    """Status, headers, body and reason arrive; the request has method, path, query and the mesh's headers."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/reviews/0?x=1&y=%20z")
    told = json.loads(reply.body)
    assert (reply.status, reply.reason, told["method"], told["target"]) == (200, "OK", "GET", "/reviews/0?x=1&y=%20z")
    assert told["headers"]["host"] == "reviews:9080"
    assert told["headers"]["x-envoy-attempt-count"] == "1"
    assert len(told["headers"]["x-request-id"]) == 36
    assert "transfer-encoding" not in told["headers"]
    assert "connection" not in told["headers"]


async def test_response_tells_what_the_mesh_saw(scene: Scene) -> None:
    """Route, cluster and endpoint of a response can be asked for."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/who")
    assert reply.sighting is not None
    assert reply.sighting.endpoint == f"127.0.0.1:{scene.upstream.port}"
    assert reply.sighting.cluster == "outbound|9080|v1|reviews.default.svc.cluster.local"


async def test_telemetry_is_told_once_at_the_end(scene: Scene) -> None:
    """One event, with sizes, cluster and the identity that the peer proved."""
    await scene.caller.call("POST", f"{REVIEWS}/who", content=b"12345")
    (event,) = scene.mesh.events
    assert (event.status, event.flags, event.bytes_received, event.bytes_sent) == (200, "-", 5, 2)
    assert event.destination.principal == "spiffe://cluster.local/ns/default/sa/reviews"
    assert event.destination.workload == "reviews-v1"


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_post_bytes(scene: Scene, size: int) -> None:
    """Bytes of any size arrive with a content-length."""
    told = json.loads((await scene.caller.call("POST", f"{REVIEWS}/echo", content=b"x" * size)).body)
    assert (told["size"], told["headers"]["content-length"]) == (size, str(size))


async def test_post_stream(scene: Scene) -> None:
    """An iterable goes out in chunks, empty pieces do not end it."""
    told = json.loads((await scene.caller.call("POST", f"{REVIEWS}/echo", content=[b"a" * 70_000, b"", b"b"])).body)
    assert (told["size"], told["headers"]["transfer-encoding"]) == (70_001, "chunked")


async def test_large_response(scene: Scene) -> None:
    """Megabytes arrive whole."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/large?size=5000000")
    assert len(reply.body) == 5_000_000
    assert reply.body[:256] == bytes(range(256))


async def test_chunks_are_seen_as_they_come(scene: Scene) -> None:
    """A chunked response with pauses comes in pieces; its trailers are dropped."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/chunked?n=3&pause=0.05")
    assert reply.body == b"piece 0;piece 1;piece 2;"
    assert len(reply.pieces) == 3
    assert "x-sum" not in reply.headers


async def test_gzip(scene: Scene) -> None:
    """The library decodes what the server encoded."""
    assert (await scene.caller.call("GET", f"{REVIEWS}/gzip")).body == b"squeezed " * 100


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("code", [200, 204, 304])
async def test_responses_without_body_leave_the_connection_in_use(scene: Scene, method: str, code: int) -> None:
    """HEAD, 204 and 304 have no body, whatever their headers say, and the next request uses the same connection."""
    reply = await scene.caller.call(method, f"{REVIEWS}/status?code={code}" if code != 200 else f"{REVIEWS}/echo")
    assert reply.status == code
    assert bool(reply.body) == (method == "GET" and code == 200)
    assert (await scene.caller.call("GET", f"{REVIEWS}/who")).body == b"v1"
    assert scene.upstream.connections == 1


async def test_informational_responses_are_skipped(scene: Scene) -> None:
    """100 and 103 are not the response."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/informed")
    assert (reply.status, reply.body, reply.headers["x-final"]) == (200, b"after hints", "yes")
    assert "link" not in reply.headers


async def test_redirect(scene: Scene) -> None:
    """The library follows redirects, within the mesh."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/redirect?to=/who")
    assert (reply.status, reply.body, reply.history) == (200, b"v1", 1)


async def test_cookies(scene: Scene) -> None:
    """Cookies are kept and sent back."""
    assert (await scene.caller.call("GET", f"{REVIEWS}/cookie")).cookies == {"taste": "sweet", "size": "big"}
    told = json.loads((await scene.caller.call("GET", f"{REVIEWS}/echo")).body)
    assert told["headers"]["cookie"] == "taste=sweet; size=big"


async def test_body_until_close(scene: Scene) -> None:
    """A response of HTTP/1.0 without length ends with its connection."""
    assert (await scene.caller.call("GET", f"{REVIEWS}/until-close")).body == b"up to the end"


async def test_early_response_ends_the_upload(scene: Scene) -> None:
    """A server that answers before it has read the body is heard, and the body is not sent to its end."""
    sent = 0

    def endless() -> object:
        nonlocal sent
        while sent < 500:
            sent += 1
            yield b"x" * 65_536

    reply = await scene.caller.call("POST", f"{REVIEWS}/early", content=endless())  # type: ignore[arg-type]
    assert (reply.status, reply.body) == (413, b"too much")
    assert sent < 500


async def test_host_header_other_than_the_url(scene: Scene) -> None:
    """The URL says where to go, the Host header what to say there."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/echo", headers={"Host": "other.example"})
    assert json.loads(reply.body)["headers"]["host"] == "other.example"


async def test_line_breaks_in_headers_are_refused(scene: Scene) -> None:
    """A header cannot smuggle a second request; the library's own exception says so and nothing leaves."""
    with pytest.raises(scene.caller.errors.invalid):
        await scene.caller.call("GET", f"{REVIEWS}/echo", headers={"x-evil": "a\r\nhost: b"})
    assert scene.upstream.requests == []


async def test_many_at_once(scene: Scene) -> None:
    """Fifty concurrent requests each get their own answer, over connections of which none is used twice at a time."""
    replies = await asyncio.gather(*(scene.caller.call("GET", f"{REVIEWS}/echo?n={n}") for n in range(50)))
    assert [json.loads(reply.body)["target"] for reply in replies] == [f"/echo?n={n}" for n in range(50)]
    assert {event.status for event in scene.mesh.events} == {200}


async def test_response_given_up_frees_the_server(scene: Scene) -> None:
    """Closing a response in the middle closes its connection; telemetry says who left."""
    reply = await scene.caller.call("GET", f"{REVIEWS}/large?size=200000000", stop_after=1)
    assert len(reply.pieces) == 1
    assert await asyncio.to_thread(scene.upstream.disconnected.wait, 5)
    assert scene.flags == ["DC"]
    assert (await scene.caller.call("GET", f"{REVIEWS}/who")).body == b"v1"


async def test_nobody_reads_ahead_without_bound(scene: Scene) -> None:
    """A response that nobody reads stops coming: memory stays bounded."""
    await scene.caller.call("GET", f"{REVIEWS}/large?size=200000000", stop_after=1)
    assert scene.upstream.seen["sent"] < 50_000_000
