"""What every call gets, in both APIs: the way to its endpoint, retries, limits, faults."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

from meshlib.config.model import (
    Abort,
    Delay,
    Fault,
    HeaderMatch,
    MatchKind,
    RetryPolicy,
    RouteMatch,
    StringMatch,
)
from meshlib.errors import ConnectFailure, NoCluster, NoHealthyUpstream, UpstreamTimeout
from meshlib.telemetry import deadline
from tests.adapters.grpc.conftest import Scene
from tests.support.grpc_echo import Echo
from tests.support.mesh import ISTIO_RETRY, destination, endpoint
from tests.support.pki import spiffe

ALL_CODES = RetryPolicy(
    frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}),
    retries=2,
    backoff_base=0.001,
    backoff_max=0.002,
)


async def refused(call: Any) -> grpc.RpcError:
    """The error of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value


async def test_four_kinds(scene: Scene) -> None:
    """Every kind of call arrives, over mutual TLS, and its answers come back."""
    caller = scene.caller
    told = await caller.one(b"echo")
    assert (told["request"], told["peer"]) == ("echo", spiffe("productpage"))
    assert [one["request"] for one in await caller.many(b"echo")] == ["echo"] * 3
    assert (await caller.collect([b"a", b"b"]))["request"] == "a,b"
    assert [one["request"] for one in await caller.chat([b"a", b"b"])] == ["a", "b"]
    assert await scene.flags(4) == ["-"] * 4


async def test_metadata_go_both_ways(scene: Scene) -> None:
    """The caller's metadata arrive, binary ones too; initial and trailing ones come back."""
    told = await scene.caller.one(metadata=(("x-a", "1"), ("x-bin", b"\x00\xff")))
    assert (told["metadata"]["x-a"], told["metadata"]["x-bin"]) == ("1", "00ff")
    call = await scene.caller.begin("One", b"echo")
    assert (await call.trailing_metadata())["x-tail"] == "late"


async def test_context_and_trace_travel(scene: Scene) -> None:
    """The request id and the trace that the mesh begins are those that the server continues."""
    told = await scene.caller.one()
    assert told["trace"] == told["metadata"]["traceparent"].split("-")[1]
    assert told["metadata"]["x-request-id"]
    assert told["metadata"]["x-envoy-attempt-count"] == "1"


async def test_event_of_a_call(scene: Scene) -> None:
    """Telemetry hears of protocol, status, messages and bytes of a call, on both sides."""
    await scene.caller.many(b"echo")
    await scene.flags(1)
    event = scene.mesh.events[-1]
    assert (event.status, event.grpc_status, event.request_protocol, event.protocol) == (200, "0", "grpc", "HTTP/2")
    assert (event.method, event.path) == ("POST", "/test.Echo/Many")
    assert (event.request_messages, event.response_messages) == (1, 3)
    assert event.bytes_received == 4
    assert event.destination.principal == spiffe("reviews")


async def test_route_by_method_and_metadata(scene: Scene) -> None:
    """A route matches on `/pkg.Service/Method` and on metadata; what no route takes is UNIMPLEMENTED, as Envoy's 404 maps."""
    header = HeaderMatch("x-user", StringMatch(MatchKind.EXACT, "jason"))
    match = RouteMatch(StringMatch(MatchKind.EXACT, "/test.Echo/One"), headers=(header,))
    scene.configure(match=match)
    assert (await scene.caller.one(metadata=(("x-user", "jason"),)))["name"] == "v1"
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await refused(scene.caller.many())).code() is grpc.StatusCode.UNIMPLEMENTED
    assert await scene.flags(3) == ["-", "NR", "NR"]
    assert scene.mesh.events[-1].grpc_status == "12"


async def test_weights_and_balancing_are_per_call(scene: Scene) -> None:
    """Calls of one channel are spread over the endpoints of a subset, and over subsets by weight."""
    with Echo("a") as first, Echo("b") as second, Echo("c") as third:
        endpoints = {"v1": [endpoint(first.port), endpoint(second.port)], "v2": [endpoint(third.port)]}
        scene.configure(endpoints=endpoints, weights={"v1": 50, "v2": 50}, sans=())
        hits = Counter([(await scene.caller.one())["name"] for _ in range(60)])
    assert set(hits) == {"a", "b", "c"}
    assert 12 <= hits["c"] <= 48


async def test_endpoints_change_under_a_channel(scene: Scene) -> None:
    """The next call goes to the new endpoint; the channel is the same."""
    assert (await scene.caller.one())["name"] == "v1"
    with Echo("new") as other:
        scene.configure(endpoints={"v1": [endpoint(other.port)]}, sans=())
        assert (await scene.caller.one())["name"] == "new"


@pytest.mark.parametrize("code", ["CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"])
async def test_retries_on_codes(scene: Scene, code: str) -> None:
    """A status that the policy names is tried again; the last try's answer counts."""
    scene.configure(retry=ALL_CODES)
    told = await scene.caller.one(f"abort code={code} times=2".encode())
    assert told["metadata"]["x-envoy-attempt-count"] == "3"
    assert scene.mesh.events[-1].attempts == 3


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNKNOWN", "ABORTED", "PERMISSION_DENIED"])
async def test_other_codes_are_the_answer(scene: Scene, code: str) -> None:
    """A status that the policy does not name is the caller's, with the server's own words."""
    scene.configure(retry=ALL_CODES)
    error = await refused(scene.caller.one(f"abort code={code} words=my_words".encode()))
    assert (error.code().name, error.details()) == (code, "my words")
    assert scene.echo.seen["abort"] == 1
    assert scene.mesh.events[-1].grpc_status == str(grpc.StatusCode[code].value[0])


async def test_retries_end(scene: Scene) -> None:
    """When all tries are used up the server's last status is the answer, and the flag says so."""
    error = await refused(scene.caller.one(b"abort code=UNAVAILABLE words=busy"))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "busy")
    assert scene.echo.seen["abort"] == 3
    assert await scene.flags(1) == ["URX"]


async def test_no_retry_after_the_head(scene: Scene) -> None:
    """A server that sent its initial metadata has answered: Envoy looks at the status in the head only."""
    error = await refused(scene.caller.one(b"head code=UNAVAILABLE"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert scene.echo.seen["head"] == 1
    await refused(scene.caller.many(b"head code=UNAVAILABLE"))
    assert scene.echo.seen["head"] == 2


async def test_heads_of_streams(scene: Scene) -> None:
    """Who asks for the initial metadata of a stream gets them before the first message, also where they are empty."""
    call = await scene.caller.begin("Many", b"head code=NOT_FOUND seconds=1")
    started = time.monotonic()
    assert await call.initial_metadata() == {"x-head": "early"}
    other = await scene.caller.begin("Many", b"head code=NOT_FOUND seconds=1 empty=1")
    assert await other.initial_metadata() == {}
    assert time.monotonic() - started < 0.9
    assert await call.code() is await other.code() is grpc.StatusCode.NOT_FOUND


async def test_streams_are_tried_again_until_their_first_message(scene: Scene) -> None:
    """A stream of responses that fails before its first message is tried again, also one whose requests are a stream."""
    assert len(await scene.caller.many(b"abort code=UNAVAILABLE times=2")) == 3
    scene.echo.seen.clear()
    told = await scene.caller.chat([b"abort code=UNAVAILABLE times=2", b"more"])
    assert [one["request"].split()[0] for one in told] == ["abort", "more"]
    scene.echo.seen.clear()
    assert (await scene.caller.collect([b"abort code=UNAVAILABLE times=1 words=x", b""]))["request"].startswith("abort")


async def test_no_retry_after_the_first_message(scene: Scene) -> None:
    """What the caller has seen cannot be taken back."""
    error = await refused(scene.caller.many(b"broken"))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "broken")
    assert scene.echo.seen["broken"] == 1


async def test_another_endpoint_after_a_failed_connection(scene: Scene) -> None:
    """A connection that cannot be made is no reason for the caller to notice."""
    dead = endpoint(1, tls=True)
    scene.configure(endpoints={"v1": [dead, endpoint(scene.echo.port, tls=True)]}, retry=replace(ISTIO_RETRY, retries=5))
    for _ in range(8):
        assert (await scene.caller.one())["name"] == "v1"


async def test_nobody_answers(scene: Scene) -> None:
    """UNAVAILABLE, and the details say where it went wrong; the cause is the mesh's own error."""
    scene.configure(endpoints={"v1": [endpoint(1)]}, sans=())
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "UF" in error.details()
    assert "127.0.0.1:1" in error.details()
    assert "Connection refused" in error.details()
    assert error.details().endswith("see: meshlib explain POST http://reviews:9080/test.Echo/One")
    assert isinstance(error.__cause__, ConnectFailure)
    await scene.flags(1)
    event = scene.mesh.events[-1]
    assert (event.status, event.grpc_status, event.flags, event.attempts) == (200, "14", "UF", 3)


async def test_a_refused_connection_is_made_anew_at_once(scene: Scene) -> None:
    """The core's back-off, a second and more, does not stand between a server that came back and the next call."""
    with Echo("gone") as other:
        port = other.port
        scene.configure(endpoints={"v1": [endpoint(port)]}, sans=(), retry=None)
        await scene.caller.one()
    await refused(scene.caller.one())
    back = grpc.server(ThreadPoolExecutor(2))
    back.add_insecure_port(f"127.0.0.1:{port}")
    back.start()
    started = time.monotonic()
    assert (await refused(scene.caller.one())).code() is grpc.StatusCode.UNIMPLEMENTED
    assert time.monotonic() - started < 0.9
    back.stop(None)


async def test_no_endpoint_and_no_cluster(scene: Scene) -> None:
    """UNAVAILABLE with the flag of what is missing."""
    scene.configure(endpoints={"v1": []})
    error = await refused(scene.caller.one())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error.__cause__, NoHealthyUpstream)
    known = destination("reviews:9080", {"v1": []})
    scene.mesh.know(replace(known, clusters={}))
    error = await refused(scene.caller.many())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error.__cause__, NoCluster)
    assert await scene.flags(2) == ["UH", "NC"]


async def test_words_of_a_connection_from_a_server_are_its_answer(scene: Scene) -> None:
    """A server that hands on "failed to connect to all addresses" from behind it has answered: our connection stands."""
    scene.configure(retry=replace(ISTIO_RETRY, retry_on=frozenset({"connect-failure"})))
    words = "failed_to_connect_to_all_addresses"
    error = await refused(scene.caller.one(f"abort code=UNAVAILABLE words={words}".encode()))
    assert error.details() == words.replace("_", " ")
    assert scene.echo.seen["abort"] == 1
    assert await scene.flags(1) == ["-"]


async def test_route_timeout(scene: Scene) -> None:
    """The route's timeout ends the call with DEADLINE_EXCEEDED, and the server was told of it."""
    scene.configure(timeout=0.3)
    started = time.monotonic()
    error = await refused(scene.caller.one(b"slow seconds=5"))
    assert time.monotonic() - started < 2
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(error.__cause__, UpstreamTimeout)
    assert await scene.flags(1) == ["UT"]
    assert scene.echo.cancelled.wait(5)
    assert 0 < (await scene.caller.one())["left"] <= 0.3


async def test_the_shorter_of_all_limits_counts(scene: Scene) -> None:
    """The caller's own timeout, the route's, and what is left of the request being served."""
    scene.configure(timeout=5.0)
    assert 1.5 < (await scene.caller.one(timeout=2.0))["left"] <= 2.0
    token = deadline.enter(time.monotonic() + 1.0)
    try:
        assert 0.5 < (await scene.caller.one(timeout=2.0))["left"] <= 1.0
        assert 0.5 < (await scene.caller.many(timeout=2.0))[0]["left"] <= 1.0
    finally:
        deadline.leave(token)
    assert 4 < (await scene.caller.one())["left"] <= 5.0
    scene.configure()
    assert (await scene.caller.one())["left"] is None


async def test_no_call_after_the_deadline(scene: Scene) -> None:
    """A request whose caller has given up causes no calls any more."""
    token = deadline.enter(time.monotonic() - 1.0)
    try:
        error = await refused(scene.caller.one())
    finally:
        deadline.leave(token)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not scene.echo.calls


async def test_timeout_of_a_try(scene: Scene) -> None:
    """A try that takes too long is given up and made again, for single messages and for streams."""
    retry = replace(ISTIO_RETRY, retry_on=frozenset({"reset"}), per_try_timeout=0.3)
    scene.configure(retry=retry, timeout=10.0)
    assert (await scene.caller.one(b"slow seconds=3 times=1"))["metadata"]["x-envoy-attempt-count"] == "2"
    scene.echo.seen.clear()
    scene.echo.cancelled.clear()
    assert (await scene.caller.many(b"slow seconds=3 times=1"))[0]["metadata"]["x-envoy-attempt-count"] == "2"


async def test_a_stream_outlives_the_timeout_of_its_try(scene: Scene) -> None:
    """Once the first message came, only the whole call's limit counts."""
    scene.configure(retry=replace(ISTIO_RETRY, per_try_timeout=0.2), timeout=1.0)
    call = await scene.caller.begin("Many", b"endless")
    await call.next()
    started = time.monotonic()
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started > 0.4


@pytest.mark.parametrize(
    ("abort", "code"),
    [
        (Abort(1.0, grpc_status=8), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Abort(1.0, 503), grpc.StatusCode.UNAVAILABLE),
        (Abort(1.0, 401), grpc.StatusCode.UNAUTHENTICATED),
        (Abort(1.0, 404), grpc.StatusCode.UNIMPLEMENTED),
        (Abort(1.0, 418), grpc.StatusCode.UNKNOWN),
    ],
)
async def test_injected_abort(scene: Scene, abort: Abort, code: grpc.StatusCode) -> None:
    """An injected abort is the status it names, or the one that Envoy maps its HTTP status to; nothing is sent."""
    scene.configure(fault=Fault(abort=abort))
    error = await refused(scene.caller.one())
    assert (error.code(), error.details()) == (code, "fault filter abort")
    assert (await refused(scene.caller.many())).code() is code
    assert await scene.flags(2) == ["FI", "FI"]
    assert not scene.echo.calls


async def test_injected_delay(scene: Scene) -> None:
    """A delay holds the call back; a caller with less patience is told so in time."""
    scene.configure(fault=Fault(delay=Delay(1.0, 0.3)))
    started = time.monotonic()
    await scene.caller.one()
    assert time.monotonic() - started >= 0.3
    scene.configure(fault=Fault(delay=Delay(1.0, 30.0)))
    started = time.monotonic()
    assert (await refused(scene.caller.one(timeout=0.3))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5
    assert (await scene.flags(1))[0] == "DI"


async def test_wait_for_ready(scene: Scene) -> None:
    """A call with wait_for_ready waits for an endpoint; its deadline still ends it."""
    scene.configure(endpoints={"v1": []})
    error = await refused(scene.caller.one(wait_for_ready=True, timeout=0.4))
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    call = await scene.caller.begin("One", b"echo", wait_for_ready=True, timeout=20)
    scene.configure()
    assert await call.code() is grpc.StatusCode.OK
