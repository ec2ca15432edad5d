"""The library asks a real rate limit service, blocking and on asyncio; the application asks for its own limits."""

from __future__ import annotations

import asyncio
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshlib
from meshlib.config.rate_limit import Constant, GlobalRateLimit
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.rate_limit import AskRateLimit, Judged
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.rate_limit import RateLimitServices
from meshlib.runtime.settings import Settings
from meshlib_control.rate_limit_service.serve import ServiceOptions, running
from tests.support.ports import free_port

LIMITS = "domain: d\ndescriptors:\n- {key: k, rate_limit: {unit: year, requests_per_unit: 2, name: two}}\n"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """A service in a thread of its own."""
    (tmp_path / "limits.yaml").write_text(LIMITS)
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended = threading.Event()

    async def serve() -> None:
        async with running(ServiceOptions(tmp_path, "127.0.0.1:0")) as port:
            ports.put(port)
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    yield f"127.0.0.1:{ports.get(timeout=20)}"
    ended.set()
    thread.join(20)


def question(target: str, value: str, timeout: float = 10.0) -> AskRateLimit:
    return AskRateLimit(target, timeout, "d", ((("k", value),),))


def overs(answers: list[Judged | None]) -> list[bool | None]:
    return [None if answer is None else answer.over for answer in answers]


def test_blocking(target: str) -> None:
    """Each value has its count; bytes of a header are what they mean."""
    services = RateLimitServices(Mesh(Settings()))
    assert overs([services.ask(question(target, value)) for value in ("a", "a", "b", "a")]) == [False, False, False, True]
    answer = services.ask(question(target, "gr\u00fc\u00df".encode().decode("latin-1")))
    assert answer is not None
    assert [(policy, level.remaining) for policy, level in answer.levels] == [('2;w=31536000;name="two"', 1)]


async def test_asyncio(target: str) -> None:
    """The same on an event loop."""
    services = RateLimitServices(Mesh(Settings()))
    assert overs([await services.ask_async(question(target, "c")) for _ in range(3)]) == [False, False, True]


def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """No answer is None, whoever asks."""
    nobody = question(f"127.0.0.1:{free_port()}", "a", 0.5)
    services = RateLimitServices(Mesh(Settings()))
    with caplog.at_level(logging.WARNING, "meshlib"):
        assert overs([services.ask(nobody), services.ask(nobody), asyncio.run(services.ask_async(nobody))]) == [None] * 3
    assert [record.levelname for record in caplog.records if "does not answer" in record.message] == ["WARNING"]


class _Serving(Mesh):
    """A mesh whose port has a limit for the application."""

    target = ""

    @property
    def inbound(self) -> InboundPort:
        rules = ((Constant("k", "app"),),)
        limit = GlobalRateLimit("meshlib.ratelimit/default/exports", "d", self.target, 10.0, rules=rules, of_application=True)
        return InboundPort(filters=(limit,))


async def test_the_application_asks_through_the_door(target: str, caplog: pytest.LogCaptureFixture) -> None:
    """meshlib.limit and meshlib.limit_async count together; an unknown name is let pass with one warning."""
    mesh = _Serving(Settings())
    mesh.target = target
    assert await asyncio.to_thread(meshlib.limit, "exports", mesh=mesh)
    assert await meshlib.limit_async("exports", mesh=mesh)
    assert not await meshlib.limit_async("exports", mesh=mesh)
    with caplog.at_level(logging.WARNING, "meshlib"):
        assert [meshlib.limit("unheard-of", mesh=mesh, user=1) for _ in range(2)] == [True, True]
    assert len([record for record in caplog.records if "unheard-of" in record.message]) == 1


def test_a_forked_worker_has_buckets_of_its_own() -> None:
    """Each starts full, as each Envoy's: a program of its own, because this one has threads."""
    code = """
import os, meshlib
from meshlib.config.rate_limit import LocalRateLimit, TokenBucket
mesh, limit = meshlib.Mesh(meshlib.Settings()), LocalRateLimit("l", TokenBucket(1, 1, 600.0))
draw = lambda: mesh.counting.buckets.draw(limit, ()).allowed
print(draw(), draw(), flush=True)
if os.fork() == 0:
    print(draw(), draw(), flush=True)
    os._exit(0)
os.wait()
print(draw())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["True False", "True False", "False"]
