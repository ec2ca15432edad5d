"""Measures a meshed call against the same call with plain httpx over mutual TLS, interleaved in one run.

Every variant runs once per round, in random order; the table shows medians over the rounds.

Meshed means everything: routing over a weighted route, retries armed, telemetry, mutual TLS with the SPIFFE check on the
client; identity, admission, context and metrics on the server. Plain means httpx's own transport and uvicorn's own mutual TLS,
without a mesh on either side. sniffio is installed: without it httpcore retries a failing import several times for each
request, and the comparison would flatter us.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bench.scene import Scene, scene

VARIANTS = ("plain", "meshed")
TARGETS = {1: ("p50", 1.0), 16: ("rps", 3.0)}


@dataclass(frozen=True)
class Sample:
    """One variant in one round. Times in microseconds."""

    p50: float
    p99: float
    rps: float
    cpu: float  # client and server together, for each request
    client_cpu: float


async def _measure(client: Any, url: str, concurrency: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < ends:
            response = await client.get(url)
            latencies.append(time.perf_counter() - started)
            assert response.status_code == 200

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return latencies


async def _sample(place: Scene, variant: str, library: str, concurrency: int, seconds: float) -> Sample:
    transports = import_module("meshlib_httpx" if library == "httpx" else "meshlib_httpx.httpx2")
    client, url = place.client(variant, import_module(library), transports)
    server = place.server(variant)
    async with client:
        await _measure(client, url, concurrency, min(0.3, seconds))
        server_before, before, started = server.cpu_seconds(), time.process_time(), time.perf_counter()
        latencies = await _measure(client, url, concurrency, seconds)
        took, used = time.perf_counter() - started, time.process_time() - before
    if variant == "meshed":
        place.mesh.async_client().close()
    latencies.sort()
    count = len(latencies)
    total = used + server.cpu_seconds() - server_before
    return Sample(
        p50=latencies[count // 2] * 1e6,
        p99=latencies[count * 99 // 100] * 1e6,
        rps=count / took,
        cpu=total / count * 1e6,
        client_cpu=used / count * 1e6,
    )


def _run(main: Any) -> Any:
    loop_factory = import_module("uvloop").new_event_loop if find_spec("uvloop") else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


def collect(rounds: int, seconds: float, levels: list[int], library: str) -> dict[int, dict[str, list[Sample]]]:
    """Every variant at every concurrency, once per round, in random order."""
    found: dict[int, dict[str, list[Sample]]] = {level: {variant: [] for variant in VARIANTS} for level in levels}
    with scene() as place:
        for _ in range(rounds):
            order = [(level, variant) for level in levels for variant in VARIANTS]
            random.shuffle(order)  # fairness, not secrecy
            for level, variant in order:
                found[level][variant].append(_run(_sample(place, variant, library, level, seconds)))
    return found


def median(samples: list[Sample]) -> Sample:
    """The median of each figure by itself."""
    return Sample(
        *(statistics.median(values) for values in zip(*(asdict(sample).values() for sample in samples), strict=True))
    )


def judge(level: int, plain: Sample, meshed: Sample) -> tuple[str, bool] | None:
    """The target at this concurrency, if there is one, and whether it is met."""
    if level not in TARGETS:
        return None
    figure, factor = TARGETS[level]
    if figure == "p50":
        ratio = meshed.p50 / plain.p50
        return f"p50 {ratio:.2f} x plain (target: at most {factor:g} x)", ratio <= factor
    ratio = meshed.rps / plain.rps
    return f"requests/s {ratio:.2f} x plain (target: at least {factor:g} x)", ratio >= factor


def show(found: dict[int, dict[str, list[Sample]]], library: str) -> bool:
    """Print the table; whether all targets are met."""
    sniffio = "installed" if find_spec("sniffio") else "MISSING: plain httpx is slower than it need be"
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    print(f"{library}, {loop}, sniffio {sniffio}; medians; CPU is client and server together")
    print(f"{'c':>3}  {'variant':8} {'p50 us':>9} {'p99 us':>9} {'requests/s':>11} {'CPU us':>8} {'of client':>9}")
    good = True
    for level, variants in found.items():
        medians = {variant: median(samples) for variant, samples in variants.items()}
        for variant, each in medians.items():
            row = f"{each.p50:9,.0f} {each.p99:9,.0f} {each.rps:11,.0f} {each.cpu:8,.0f} {each.client_cpu:9,.0f}"
            print(f"{level:3}  {variant:8} {row}")
        # httpx2 has repaired httpx's pool: a comparison, not the target.
        verdict = judge(level, medians["plain"], medians["meshed"]) if library == "httpx" else None
        if verdict:
            print(f"     {'met' if verdict[1] else 'MISSED'}: {verdict[0]}")
            good = good and verdict[1]
    return good


def main() -> int:
    """Exit code 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each time (default 2)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16], help="callers at once (default 1 16)")
    parser.add_argument("--library", choices=["httpx", "httpx2"], default="httpx")
    parser.add_argument("--json", action="store_true", help="every sample as JSON instead of the table")
    given = parser.parse_args()
    found = collect(given.rounds, given.seconds, given.concurrency, given.library)
    if given.json:
        figures = {
            level: {name: [asdict(each) for each in samples] for name, samples in by.items()} for level, by in found.items()
        }
        print(json.dumps(figures, indent=2))
        return 0
    return 0 if show(found, given.library) else 1


if __name__ == "__main__":
    sys.exit(main())
