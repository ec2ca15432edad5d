"""The rate limit service: its configuration, its counting, its gRPC port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlib.config.messages import message
from meshlib_control.errors import CannotStart
from meshlib_control.mistakes import InvalidObject
from meshlib_control.rate_limit_service.limits import Limit, Limits, read
from meshlib_control.rate_limit_service.serve import ServiceOptions, running
from meshlib_control.rate_limit_service.service import BadRequest, OnFailure, RateLimitService, Unavailable
from meshlib_control.rate_limit_service.store import Hit, MemoryStore, RedisStore, Store, StoreFailure
from tests.support import redis_server

REQUEST = message("envoy.service.ratelimit.v3.RateLimitRequest")
RESPONSE = message("envoy.service.ratelimit.v3.RateLimitResponse")

BOOKINFO = """\
domain: productpage-ratelimit
descriptors:
  - key: PATH
    value: "/productpage"
    rate_limit:
      unit: minute
      requests_per_unit: 1
  - key: PATH
    value: "/api/*"
    rate_limit: {unit: hour, requests_per_unit: 7}
  - key: PATH
    rate_limit:
      unit: minute
      requests_per_unit: 100
  - key: account
    descriptors:
      - key: plan
        value: free
        rate_limit: {unit: DAY, requests_per_unit: 2, name: free}
      - key: plan
        value: gold
        rate_limit: {unlimited: true}
      - key: plan
        value: tried
        rate_limit: {unit: day, requests_per_unit: 1}
        shadow_mode: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "bookinfo.yaml").write_text(BOOKINFO)
    return tmp_path / "limits"


def asked(*descriptors: Sequence[tuple[str, str]], domain: str = "productpage-ratelimit", hits: int = 0) -> Any:
    return REQUEST(
        domain=domain,
        hits_addend=hits,
        descriptors=[{"entries": [{"key": key, "value": value} for key, value in entries]} for entries in descriptors],
    )


def service(folder: Path, now: float = 1_000_000.0, **options: Any) -> RateLimitService:
    return RateLimitService(read(folder), options.pop("store", None) or MemoryStore(), clock=lambda: now, **options)


async def codes(of: RateLimitService, *requests: Any) -> list[str]:
    answers = [await of.judge(request) for request in requests]
    return [answer.DESCRIPTOR.fields_by_name["overall_code"].enum_type.values[answer.overall_code].name for answer in answers]


# Configuration


def test_a_value_of_its_own_beats_a_prefix_and_a_prefix_beats_the_bare_key(folder: Path) -> None:
    """The longest way to say it is not the rule, the most exact one is."""
    limits = read(folder)
    assert limits.find("productpage-ratelimit", (("PATH", "/productpage"),)) == Limit(1, "minute")
    assert limits.find("productpage-ratelimit", (("PATH", "/api/v1"),)) == Limit(7, "hour")
    assert limits.find("productpage-ratelimit", (("PATH", "/other"),)) == Limit(100, "minute")


def test_entries_go_down_level_by_level(folder: Path) -> None:
    """A limit belongs to the whole way: not to a shorter, a longer or another one."""
    limits = read(folder)
    assert limits.find("productpage-ratelimit", (("account", "7"), ("plan", "free"))) == Limit(2, "day", "free")
    assert limits.find("productpage-ratelimit", (("account", "7"), ("plan", "gold"))) == Limit(None, "second")
    assert limits.find("productpage-ratelimit", (("account", "7"),)) is None
    assert limits.find("productpage-ratelimit", (("plan", "free"), ("account", "7"))) is None
    assert limits.find("productpage-ratelimit", (("PATH", "/productpage"), ("plan", "free"))) is None
    assert limits.find("elsewhere", (("PATH", "/productpage"),)) is None


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("descriptors: []", "domain", "Required value"),
        ("domain: ''", "domain", "at least 1"),
        ("domain: a\ndescriptors:\n- key: k\n  rate_limit: {unit: fortnight, requests_per_unit: 1}", "unit", "fortnight"),
        ("domain: a\ndescriptors:\n- key: k\n  ratelimit: {}", "ratelimit", "did you mean rate_limit?"),
        ("domain: a\ndescriptors:\n- key: k\n- key: k", "descriptors[1]", "twice"),
        ("domain: a\ndescriptors:\n- key: k\n  rate_limit: {unit: day, unlimited: true}", "unit", "unlimited"),
        ("domain: a\n---\ndomain: a", "domain", "two files"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_field(tmp_path: Path, text: str, place: str, words: str) -> None:
    """Nothing is guessed."""
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(InvalidObject) as caught:
        read(tmp_path)
    assert caught.value.file == "limits.yaml"
    assert caught.value.field.endswith(place)
    assert words in str(caught.value)


# Judging


async def test_a_window_lets_in_what_it_holds_and_the_next_one_again(folder: Path) -> None:
    """Fixed windows: a minute begins with the minute, not with the first request."""
    store = MemoryStore()
    path = asked([("PATH", "/productpage")])
    assert await codes(service(folder, 1_000_019.0, store=store), path, path) == ["OK", "OVER_LIMIT"]
    assert await codes(service(folder, 1_000_020.0, store=store), path, path) == ["OK", "OVER_LIMIT"]


async def test_the_answer_says_how_much_is_left_and_for_how_long(folder: Path) -> None:
    """What clients show as x-ratelimit headers."""
    answer = await service(folder, now=86_400.0 + 400.25).judge(asked([("account", "7"), ("plan", "free")]))
    (status,) = answer.statuses
    assert (status.limit_remaining, status.current_limit.requests_per_unit, status.current_limit.name) == (1, 2, "free")
    assert status.duration_until_reset.seconds == 86_400 - 400
    assert status.current_limit.DESCRIPTOR.enum_types_by_name["Unit"].values_by_number[status.current_limit.unit].name == "DAY"


async def test_each_value_is_counted_by_itself(folder: Path) -> None:
    """A key without a value has a count for every value."""
    judge = service(folder)
    free = [asked([("account", account), ("plan", "free")]) for account in ("7", "8", "7", "7")]
    assert await codes(judge, *free) == ["OK", "OK", "OK", "OVER_LIMIT"]


async def test_values_cannot_be_made_to_look_like_others(folder: Path) -> None:
    """What is counted is the entries, whatever separators their texts hold."""
    keys: list[str] = []

    class Noting(MemoryStore):
        async def add(self, hits: Sequence[Hit], now: float) -> list[int]:
            keys.extend(hit.key for hit in hits)
            return await super().add(hits, now)

    judge = service(folder, store=Noting())
    await judge.judge(asked([("account", "1,4:plan"), ("plan", "free")]))
    await judge.judge(asked([("account", "1"), ("plan", "free")]))
    assert len(set(keys)) == 2


async def test_unlimited_unknown_and_shadowed_descriptors_are_never_over(folder: Path) -> None:
    """A shadow counts and says nothing."""
    judge = service(folder)
    for entries in ([("account", "1"), ("plan", "gold")], [("nobody", "knows")], [("account", "1"), ("plan", "tried")]):
        assert await codes(judge, asked(entries), asked(entries), asked(entries)) == ["OK", "OK", "OK"]


async def test_all_descriptors_are_counted_and_one_is_enough_to_be_over(folder: Path) -> None:
    """As the reference service does."""
    judge = service(folder)
    both = asked([("PATH", "/productpage")], [("account", "7"), ("plan", "free")])
    assert await codes(judge, both, both) == ["OK", "OVER_LIMIT"]
    assert await codes(judge, asked([("account", "7"), ("plan", "free")])) == ["OVER_LIMIT"]


async def test_a_request_may_count_several_times_and_bring_its_own_limit(folder: Path) -> None:
    """hits_addend, and the limit inside a descriptor."""
    judge = service(folder)
    assert await codes(judge, asked([("PATH", "/other")], hits=100), asked([("PATH", "/other")])) == ["OK", "OVER_LIMIT"]
    own = asked([("nobody", "knows")])
    own.descriptors[0].limit.requests_per_unit, own.descriptors[0].limit.unit = 1, 2
    assert await codes(judge, own, own) == ["OK", "OVER_LIMIT"]


async def test_a_request_that_names_nothing_is_refused(folder: Path) -> None:
    """The words are the reference's."""
    for request, words in ((asked([("a", "b")], domain=""), "domain"), (asked(), "descriptor list")):
        with pytest.raises(BadRequest, match=words):
            await service(folder).judge(request)


class _Broken(MemoryStore):
    async def add(self, hits: Sequence[Hit], now: float) -> list[int]:
        raise StoreFailure("gone")


async def test_a_store_that_is_away_gives_what_was_configured(folder: Path) -> None:
    """error leaves it to who asks."""
    path = asked([("PATH", "/productpage")])
    assert await codes(service(folder, store=_Broken(), on_failure=OnFailure.ALLOW), path) == ["OK"]
    assert await codes(service(folder, store=_Broken(), on_failure=OnFailure.DENY), path) == ["OVER_LIMIT"]
    with pytest.raises(Unavailable, match="gone"):
        await service(folder, store=_Broken()).judge(path)
    nobody = asked([("nobody", "knows")])
    assert await codes(service(folder, store=_Broken()), nobody) == ["OK"]


async def test_windows_that_are_over_are_forgotten() -> None:
    """Memory holds what runs now."""
    store = MemoryStore()
    await store.add([Hit(f"key {n}", 10) for n in range(100)], 9.0)
    await store.add([Hit("key", 20)], 10.0)
    assert list(store._windows) == [20]


# Redis

needs_redis = pytest.mark.skipif(redis_server.binary() is None, reason="needs Debian's redis-server: sh scripts/debian.sh")


@needs_redis
async def test_several_services_on_one_redis_count_exactly(folder: Path, tmp_path: Path) -> None:
    """500 requests at once through two services: as many get in as the limit says, and not one more."""
    with redis_server.running(tmp_path) as url:
        stores: list[Store] = [RedisStore(url), RedisStore(url)]
        judges = [service(folder, store=store) for store in stores]
        request = asked([("PATH", "/other")])
        answers = await asyncio.gather(*(judges[n % 2].judge(request) for n in range(500)))
        assert sum(answer.overall_code == 1 for answer in answers) == 100
        for store in stores:
            await store.close()


@needs_redis
async def test_counts_in_redis_expire_with_their_window(folder: Path, tmp_path: Path) -> None:
    """Nothing piles up."""
    from redis.asyncio import Redis

    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        await service(folder, now=1_000_000.0, store=store).judge(asked([("PATH", "/productpage")]))
        client = Redis.from_url(url)
        (key,) = await client.keys("meshlib:ratelimit:*")
        assert 0 < await client.ttl(key) <= 20
        await client.aclose()
        await store.close()


@needs_redis
async def test_a_redis_that_goes_away_is_a_failure_of_the_store(folder: Path, tmp_path: Path) -> None:
    """And the next request tries anew."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        judge = service(folder, store=store)
        assert await codes(judge, asked([("PATH", "/other")])) == ["OK"]
    with pytest.raises(Unavailable):
        await judge.judge(asked([("PATH", "/other")]))
    await store.close()


# The port


async def test_the_port_speaks_envoys_protocol_and_follows_the_folder(folder: Path) -> None:
    """New limits are in force without a restart; a mistake changes nothing."""
    async with (
        running(ServiceOptions(folder, "127.0.0.1:0")) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        ask = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            request_serializer=REQUEST.SerializeToString,
            response_deserializer=RESPONSE.FromString,
        )
        request = asked([("day", "today")], domain="fresh")
        assert (await ask(request)).overall_code == 1
        text = "domain: fresh\ndescriptors:\n- key: day\n  rate_limit: {unit: year, requests_per_unit: %d}\n"
        (folder / "fresh.yaml").write_text(text % 0)
        async with asyncio.timeout(20):
            while (await ask(request)).overall_code != 2:  # noqa: ASYNC110  the service is watched as its users see it
                await asyncio.sleep(0.05)
        (folder / "fresh.yaml").write_text("domain: [")
        (folder / "more.yaml").write_text(text.replace("fresh", "more") % 0)
        await asyncio.sleep(0.5)
        assert (await ask(request)).overall_code == 2
        with pytest.raises(grpc.RpcError) as caught:
            await ask(REQUEST())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_mistake_at_the_start_is_told_and_nothing_starts(tmp_path: Path) -> None:
    """As for the control plane."""
    with pytest.raises(CannotStart, match="there is no folder"):
        async with running(ServiceOptions(tmp_path / "nowhere", "127.0.0.1:0")):
            pass
    with pytest.raises(CannotStart, match="redis://"):
        async with running(ServiceOptions(tmp_path, "127.0.0.1:0", redis="127.0.0.1:6379")):
            pass


def test_no_limits_at_all_limit_nothing() -> None:
    """The empty configuration."""
    assert Limits().find("any", (("a", "b"),)) is None
