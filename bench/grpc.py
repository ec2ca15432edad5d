"""Measures meshed gRPC calls against grpcio's own over mutual TLS, interleaved in one run.

Every variant runs once per round, in random order; the table shows medians over the rounds. Plain means grpcio's own mutual
TLS and no mesh on either side; meshed means engine 1 on both sides. CPU is that of each process, for each call or message.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio
from cryptography import x509

import meshlib_grpc
import meshlib_grpc.aio
from bench.grpc_server import MESSAGE
from bench.scene import CLIENT, SERVER, Server, process
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, Leaf, spiffe

APIS, VARIANTS, KINDS = ("sync", "aio"), ("plain", "meshed"), ("unary", "stream")
STREAM = 500
"""Messages in each stream."""


class Case(NamedTuple):
    """What is measured by itself."""

    api: str
    kind: str
    callers: int


@dataclass(frozen=True)
class Sample:
    """One variant of a case in one round. Times in microseconds; a stream's are per message."""

    p50: float
    p99: float
    rate: float
    client_cpu: float
    server_cpu: float


@dataclass(frozen=True)
class Scene:
    """The servers, and what clients need to reach them."""

    servers: dict[tuple[str, str], Server]
    authority: Authority
    leaf: Leaf

    def target(self, variant: str, api: str) -> Any:
        """What a channel to a server is made of: a mesh, or address, credentials and options."""
        port = self.servers[variant, api].port
        if variant == "meshed":
            mesh = LocalMesh(self.authority, CLIENT, keep_events=False)
            one = endpoint(port, tls=True)
            endpoints, weights = {"v1": [one], "v2": [one]}, {"v1": 80, "v2": 20}
            mesh.know(destination("reviews:9080", endpoints, weights=weights, timeout=10.0, sans=[spiffe(SERVER)]))
            return mesh
        credentials = grpc.ssl_channel_credentials(self.authority.root, self.leaf.key, self.leaf.chain)
        return f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", "localhost")]

    def channel(self, variant: str, api: str) -> Any:
        """A channel of either API."""
        given = self.target(variant, api)
        if variant == "meshed":
            make = meshlib_grpc.channel if api == "sync" else meshlib_grpc.aio.channel
            return make("reviews:9080", mesh=given)
        return (grpc if api == "sync" else grpc.aio).secure_channel(*given)


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """Start all servers, with certificates of one authority."""
    authority = Authority()
    leaf = authority.issue(SERVER, names=(x509.DNSName("localhost"),))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = {}
        for variant in VARIANTS:
            for api in APIS:
                started = process("bench.grpc_server", (variant, api), leaf, authority, f"{folder}/{variant}-{api}")
                servers[variant, api] = stack.enter_context(started)
        yield Scene(servers, authority, authority.issue(CLIENT))


def _calls(channel: Any, kind: str, latencies: list[float], ends: float) -> None:
    one, many = channel.unary_unary("/bench.Echo/One"), channel.unary_stream("/bench.Echo/Many")
    while (started := time.perf_counter()) < ends:
        if kind == "unary":
            one(MESSAGE)
        else:
            for _ in many(b"%d" % STREAM):
                pass
        latencies.append(time.perf_counter() - started)


def _measure(channel: Any, case: Case, seconds: float) -> list[float]:
    latencies: list[float] = []
    ends = time.perf_counter() + seconds
    given = (channel, case.kind, latencies, ends)
    callers = [threading.Thread(target=_calls, args=given) for _ in range(case.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return latencies


async def _aio_calls(channel: Any, kind: str, latencies: list[float], ends: float) -> None:
    one, many = channel.unary_unary("/bench.Echo/One"), channel.unary_stream("/bench.Echo/Many")
    while (started := time.perf_counter()) < ends:
        if kind == "unary":
            await one(MESSAGE)
        else:
            async for _ in many(b"%d" % STREAM):
                pass
        latencies.append(time.perf_counter() - started)


async def _aio_measure(channel: Any, case: Case, seconds: float) -> list[float]:
    latencies: list[float] = []
    ends = time.perf_counter() + seconds
    await asyncio.gather(*(_aio_calls(channel, case.kind, latencies, ends) for _ in range(case.callers)))
    return latencies


class _Meter:
    """Time, and CPU of both sides, since it was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = time.perf_counter(), time.process_time(), server.cpu_seconds()

    def sample(self, latencies: list[float], size: int) -> Sample:
        """What was used for each of the messages that came in calls of so many."""
        now = time.perf_counter(), time.process_time(), self._server.cpu_seconds()
        took, used, served = (after - before for after, before in zip(now, self._before, strict=True))
        latencies.sort()
        count = len(latencies)
        return Sample(
            p50=latencies[count // 2] / size * 1e6,
            p99=latencies[count * 99 // 100] / size * 1e6,
            rate=count * size / took,
            client_cpu=used / count / size * 1e6,
            server_cpu=served / count / size * 1e6,
        )


def _sample(place: Scene, variant: str, case: Case, seconds: float) -> Sample:
    with place.channel(variant, case.api) as channel:
        _measure(channel, case, min(0.3, seconds))
        meter = _Meter(place.servers[variant, case.api])
        return meter.sample(_measure(channel, case, seconds), STREAM if case.kind == "stream" else 1)


async def _aio_sample(place: Scene, variant: str, case: Case, seconds: float) -> Sample:
    async with place.channel(variant, case.api) as channel:
        await _aio_measure(channel, case, min(0.3, seconds))
        meter = _Meter(place.servers[variant, case.api])
        return meter.sample(await _aio_measure(channel, case, seconds), STREAM if case.kind == "stream" else 1)


def collect(cases: list[Case], rounds: int, seconds: float) -> dict[Case, dict[str, list[Sample]]]:
    """Every variant of every case, once per round, in random order."""
    found: dict[Case, dict[str, list[Sample]]] = {case: {variant: [] for variant in VARIANTS} for case in cases}
    with scene() as place:
        for _ in range(rounds):
            order = [(case, variant) for case in cases for variant in VARIANTS]
            random.shuffle(order)  # fairness, not secrecy
            for case, variant in order:
                run: Callable[..., Any] = _sample if case.api == "sync" else _aio_sample
                taken = run(place, variant, case, seconds)
                found[case][variant].append(asyncio.run(taken) if case.api == "aio" else taken)
    return found


def median(samples: list[Sample]) -> Sample:
    """The median of each figure by itself."""
    return Sample(
        *(statistics.median(values) for values in zip(*(asdict(sample).values() for sample in samples), strict=True))
    )


def show(found: dict[Case, dict[str, list[Sample]]]) -> None:
    """Print the table."""
    print(f"grpcio {grpc.__version__}, Python {sys.version.split()[0]}, asyncio's own loop; medians; streams: per message")
    print(f"{'':21}{'':8} {'p50 us':>8} {'p99 us':>8} {'per s':>8} {'CPU us':>8} {'client':>8} {'server':>8}")
    for case, variants in found.items():
        medians = {variant: median(samples) for variant, samples in variants.items()}
        for variant, each in medians.items():
            row = (each.p50, each.p99, each.rate, each.client_cpu + each.server_cpu, each.client_cpu, each.server_cpu)
            print(f"{case.api:4} {case.kind:6} {case.callers:3} at once {variant:8}" + "".join(f" {one:8,.0f}" for one in row))
        plain, meshed = medians["plain"], medians["meshed"]
        client, server = meshed.client_cpu - plain.client_cpu, meshed.server_cpu - plain.server_cpu
        print(f"{'':26} CPU added: client {client:,.0f} + server {server:,.0f} = {client + server:,.0f} us")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.grpc", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each time (default 2)")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16], help="at once (default 1 16)")
    parser.add_argument("--apis", choices=APIS, nargs="+", default=APIS)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--json", action="store_true", help="every sample as JSON instead of the table")
    given = parser.parse_args()
    cases = [Case(api, kind, callers) for api in given.apis for kind in given.kinds for callers in given.callers]
    found = collect(cases, given.rounds, given.seconds)
    if given.json:
        figures = [
            {**case._asdict(), "variant": variant, "samples": [asdict(each) for each in samples]}
            for case, variants in found.items()
            for variant, samples in variants.items()
        ]
        print(json.dumps(figures, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
