"""The rate limit filters in the pipeline, and what the application asks for by itself."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from meshlib.config.rate_limit import (
    OF_APPLICATION,
    Constant,
    GlobalRateLimit,
    HeaderValue,
    LocalRateLimit,
    MetadataValue,
    Named,
    PeerIdentity,
    RemoteAddress,
    TokenBucket,
)
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.buckets import Buckets, Level
from meshlib.inbound.descriptors import descriptors
from meshlib.inbound.rate_limit import AskRateLimit, Counting, Judged, application_limit, let_pass
from meshlib.inbound.visit import Denied, Permit, Question, Visit
from meshlib.runtime.admission import admit_sync, drive_sync

ONE = TokenBucket(1, 1, 600.0)
ALICE = Peer("spiffe://cluster.local/ns/default/sa/alice", "10.0.0.7:4000")
RULES = ((Constant("k", "v"),),)


def counting(dice: float = 0.5) -> Counting:
    return Counting(Buckets(lambda: 0.0, nullcontext()), lambda: dice, "reviews.default")


def visit(with_: Counting | None, *headers: tuple[str, str], peer: Peer = ALICE) -> Visit:
    return Visit(Request("GET", "http", "reviews", "/r?x=1", headers), peer, "10.0.0.1:9080", counting=with_)


def admitted(limit: Any, with_: Counting | None, *headers: tuple[str, str], answer: Judged | None = None) -> Permit | Denied:
    return admit_sync(InboundPort(filters=(limit,)), visit(with_, *headers), lambda _: answer)


def test_a_refusal_says_what_envoy_says() -> None:
    """Status, words, headers, flag and details."""
    limit = LocalRateLimit("l", ONE, enabled=1.0, enforced=1.0, refused_headers=(("x-local-rate-limit", "true"),), tell=True)
    with_ = counting()
    first, second = admitted(limit, with_), admitted(limit, with_)
    told = [("x-ratelimit-limit", "1"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "600")]
    assert isinstance(first, Permit)
    assert first.response_headers == told
    assert isinstance(second, Denied)
    assert (second.status, second.words, second.flag, second.detail) == (429, "local_rate_limited", "RL", "local_rate_limited")
    assert second.headers == (("x-local-rate-limit", "true"), *told)
    assert second.grpc_status is None


def test_fractions_choose_who_counts_and_who_is_refused() -> None:
    """Both ends: 0.0 is nobody, 1.0 everybody; without enforcement the application is told by a header."""
    for enabled, dice, refused in ((0.0, 0.0, False), (0.5, 0.49, True), (0.5, 0.5, False), (1.0, 0.999, True)):
        with_ = counting(dice)
        limit = LocalRateLimit("l", ONE, enabled=enabled, enforced=1.0)
        assert isinstance([admitted(limit, with_) for _ in range(2)][1], Denied) is refused
    with_ = counting()
    shown = LocalRateLimit("l", ONE, enabled=1.0, enforced=0.0, passed_headers=(("x-late", "yes"),))
    found = [admitted(shown, with_) for _ in range(2)][1]
    assert isinstance(found, Permit)
    assert found.request.headers == (("x-late", "yes"),)


def test_a_port_without_counting_lets_everybody_in() -> None:
    """There is nothing to count with."""
    assert isinstance(admitted(LocalRateLimit("l", ONE, enabled=1.0, enforced=1.0), None), Permit)


def test_descriptors_of_identity_and_address() -> None:
    """Plain text has no identity, so no descriptor. The last one who forwarded is the client (Envoy in a sidecar)."""
    rules = (
        (PeerIdentity("peer"),),
        (RemoteAddress(),),
        (HeaderValue("x-a", "a"),),
        (HeaderValue("x-b", "b", optional=True),),
    )
    assert descriptors(rules, visit(None), "c") == [(("peer", ALICE.spiffe_id),), (("remote_address", "10.0.0.7"),), ()]
    plain = visit(None, ("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-a", "1"), ("x-a", "2"), peer=Peer("", "[::1]:9"))
    assert descriptors(rules[:3], plain, "c") == [(("remote_address", "2.2.2.2"),), (("a", "1"),)]
    assert descriptors(rules[1:2], visit(None, peer=Peer("", "[::1]:9")), "c") == [(("remote_address", "::1"),)]


def test_the_service_is_asked_and_its_words_are_passed_on() -> None:
    """Headers both ways; a refusal has its body."""
    limit = GlobalRateLimit("g", "dom", "rls:8081", rules=RULES, tell=True)
    asked: list[Question] = []

    def ask(question: Question) -> Judged:
        asked.append(question)
        levels = (('7;w=60;name="n"', Level(7, 3, 9)), ("", Level(5, 4, 2)))
        return Judged(False, (("x-from", "rls"),), (("x-user-plan", "free"),), "", levels)

    found = admit_sync(InboundPort(filters=(limit,)), visit(counting()), ask)
    assert asked == [AskRateLimit("rls:8081", 0.02, "dom", ((("k", "v"),),))]
    assert isinstance(found, Permit)
    assert found.request.headers == (("x-user-plan", "free"),)
    limits = [("x-ratelimit-limit", '7, 7;w=60;name="n"'), ("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "9")]
    assert found.response_headers == [*limits, ("x-from", "rls")]
    refused = admitted(limit, counting(), answer=Judged(True, body="too much"))
    assert isinstance(refused, Denied)
    assert (refused.status, refused.words, refused.flag, refused.detail) == (429, "too much", "RL", "request_rate_limited")
    assert refused.headers == (("x-envoy-ratelimited", "true"),)


def test_no_answer_opens_or_closes() -> None:
    """failure_mode_deny."""
    limits = [GlobalRateLimit("g", "d", "t", rules=RULES, closed=closed) for closed in (False, True)]
    found = [admitted(limit, counting()) for limit in limits]
    assert isinstance(found[0], Permit)
    assert isinstance(found[1], Denied)
    assert (found[1].status, found[1].flag, found[1].detail) == (500, "RLSE", "rate_limiter_error")


def test_the_application_asks_by_name_with_the_limits_keys() -> None:
    """Each value is counted by itself; a request never meets such a limit."""
    rules = ((Constant("rate_limit", "exports.default"), MetadataValue("user", (OF_APPLICATION, "user"))),)
    named = (Named((("rate_limit", "exports.default"), ("user", "")), ONE),)
    limit = LocalRateLimit(
        "meshlib.ratelimit/default/exports", None, named, rules, enabled=1.0, enforced=1.0, of_application=True
    )
    with_ = counting()
    found = application_limit((LocalRateLimit("x/exports", ONE), limit), "exports")
    assert found is limit
    assert application_limit((limit,), "imports") is None
    assert [drive_sync(let_pass(limit, {"user": user}, with_), lambda _: None) for user in (7, 8, 7, "7")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(ValueError, match="counts by user, not by account"):
        drive_sync(let_pass(limit, {"account": 7}, with_), lambda _: None)
    assert isinstance(admitted(limit, with_), Permit)
    assert InboundPort(filters=(limit,)).steps == ()


def test_the_application_may_ask_a_service_too() -> None:
    """With the same question as a request's."""
    limit = GlobalRateLimit("g/exports", "d", "t", rules=RULES, of_application=True)
    assert drive_sync(let_pass(limit, {}, counting()), lambda _: Judged(True)) is False
    assert drive_sync(let_pass(limit, {}, counting()), lambda _: None) is True
