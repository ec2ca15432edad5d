"""Calls as facts, outcomes as facts: functions of their arguments."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from meshlib.facts import Failure, FailureKind, Response
from meshlib_grpc._convert import answer, authority_of, headers_of, metadata_for, option, outcome, status_of
from meshlib_grpc._replay import BUFFER, AsyncReplay, SyncReplay

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("reviews:9080", "reviews:9080"),
        ("reviews", "reviews"),
        ("dns:reviews.default:9080", "reviews.default:9080"),
        ("dns:///reviews:9080", "reviews:9080"),
        ("dns://8.8.8.8/reviews:9080", None),
        ("127.0.0.1:9080", None),
        ("localhost:9080", None),
        ("[::1]:9080", None),
        ("ipv4:127.0.0.1:9080", None),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", None),
        ("ipv6:[::1]:9080", None),
        ("unix:/run/app.sock", None),
        ("unix:app.sock", None),
        ("unix-abstract:app", None),
        ("xds:///reviews:9080", None),
        ("vsock:2:9080", None),
        ("etcd:reviews", None),
        ("", None),
    ],
)
def test_targets(target: str, authority: str | None) -> None:
    """Host names are asked for; whatever else gRPC can resolve is left to gRPC."""
    assert authority_of(target) == authority


def test_binary_metadata_are_matched_as_on_the_wire() -> None:
    """Base64 without padding."""
    assert headers_of((("x-bin", b"\xff\x00"), ("x-a", "1"))) == (("x-bin", "/wA"), ("x-a", "1"))


def test_metadata_of_a_try() -> None:
    """The caller's own as they are, without what the mesh took or says anew; gRPC could not send other than ASCII."""
    own = (("x-a", "1"), ("x-bin", b"\xff"), ("x-envoy-max-retries", "3"), ("traceparent", "theirs"))
    kept = (("content-type", "application/grpc"), ("x-a", "1"), ("x-bin", "/w"), ("traceparent", "ours"))
    added = (("traceparent", "ours"), ("end-user", "J\u00f6rg"))
    assert metadata_for(own, kept, added) == (("x-a", "1"), ("x-bin", b"\xff"), ("traceparent", "ours"))


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (200, (("grpc-status", "8"), ("grpc-message", "full")), b"", (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")),
        (404, (), b"", (grpc.StatusCode.UNIMPLEMENTED, "")),
        (429, (), b"", (UNAVAILABLE, "")),
        (500, (), b"text", (grpc.StatusCode.UNKNOWN, "text")),
    ],
)
def test_local_answers(status: int, headers: tuple[tuple[str, str], ...], body: bytes, told: tuple[object, str]) -> None:
    """As Envoy maps HTTP statuses to codes."""
    assert status_of(status, headers, body) == told


@pytest.mark.parametrize(
    ("words", "connected", "kind", "sent"),
    [
        ("failed to connect to all addresses; last error: ...", False, FailureKind.CONNECT, False),
        ("Socket closed", False, FailureKind.RESET, True),
        ("Stream removed (recvmsg:Connection reset by peer (104))", False, FailureKind.RESET, True),
        ("Received RST_STREAM with error code 2", True, FailureKind.RESET, True),
    ],
)
def test_failures_of_the_core(words: str, connected: bool, kind: FailureKind, sent: bool) -> None:
    """What the core says of a connection that is gone."""
    found = outcome(UNAVAILABLE, words, (), connected=connected, replayable=True)
    assert isinstance(found, Failure)
    assert (found.kind, found.sent) == (kind, sent)


def test_answers_of_a_peer() -> None:
    """Over a connection that stands, the same words are the peer's; a deadline of ours is no answer."""
    words = "failed to connect to all addresses"
    assert outcome(UNAVAILABLE, words, (), connected=True, replayable=True) == Response(200, (("grpc-status", "14"),))
    late = outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", (), connected=True, replayable=True)
    assert isinstance(late, Failure)
    assert late.kind is FailureKind.TIMEOUT
    http = outcome(UNAVAILABLE, "Received http2 header with status: 503", (), connected=True, replayable=True)
    assert http == Response(503)


def test_a_status_that_was_lost_while_sending_is_a_call_cut_short() -> None:
    """grpc.aio puts words of its own in the place of the peer's status; a peer's INTERNAL stays what it is."""
    lost = outcome(grpc.StatusCode.INTERNAL, "Internal error from Core", (), connected=True, replayable=True)
    assert lost == Response(200, (("grpc-status", "14"),))
    told = outcome(grpc.StatusCode.INTERNAL, "my own", (), connected=True, replayable=True)
    assert told == Response(200, (("grpc-status", "13"),))


def test_what_the_retry_policy_sees() -> None:
    """`grpc-status` is in the head only if nothing came before it."""
    assert answer(UNAVAILABLE, ()).header("grpc-status") == "14"
    assert answer(UNAVAILABLE, (("x-a", "1"),)).header("grpc-status") is None


def test_options() -> None:
    """The last one counts."""
    assert option([("a", 1), ("a", 2)], "a") == 2
    assert option(None, "a") is None


def test_requests_are_sent_again() -> None:
    """Each try gets everything from the start; what is read on is kept too, until the response is committed to."""
    replay = SyncReplay(iter(["a", "b", "c"]), str.encode)
    first = iter(replay)
    assert [next(first), next(first)] == [b"a", b"b"]
    assert list(replay) == [b"a", b"b", b"c"]
    assert replay.replayable
    replay.commit()
    assert not replay.replayable


def test_more_than_the_buffer_goes_out_once() -> None:
    """As with Envoy, whose buffer has 1 MiB."""
    replay = SyncReplay(iter(["x" * (BUFFER // 2)] * 4), str.encode)
    assert [len(message) for message in replay] == [BUFFER // 2] * 4
    assert not replay.replayable


def test_an_iterator_that_raises() -> None:
    """Its error is gRPC's to tell, in each try."""

    def broken() -> object:
        yield "a"
        raise ValueError("broken")

    replay = SyncReplay(broken(), str.encode)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            list(replay)


async def test_asyncio_requests_are_sent_again() -> None:
    """The same for iterators of both sorts and for what is written."""
    replay = AsyncReplay(iter(["a", "b"]), str.encode)
    assert [message async for message in replay] == [b"a", b"b"]
    assert [message async for message in replay] == [b"a", b"b"]
    written = AsyncReplay(None, str.encode)
    reader = asyncio.create_task(anext(aiter(written)))
    await written.write("a")
    assert await reader == b"a"
    written.end()
    assert [message async for message in written] == [b"a"]
