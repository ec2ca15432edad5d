"""Cases are drawn in a process of their own: it takes time, and the chance of a running mesh would disturb hypothesis."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.conformance.cases import REPOSITORY, Case
from tests.conformance.strategies import cases


class Enough(BaseException):
    """Ends hypothesis' loop; no Exception, so that it is not taken for a failed example."""


def batches(count: int, number: int, size: int) -> Iterator[list[Case]]:
    """Cases with together so many requests, in batches; the same for the same seed.

    Args:
        number: the seed.
        size: cases in a batch.
    """
    command = [sys.executable, "-m", "tests.conformance.drawing", str(count), str(number), str(size)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with suppress(EOFError):
            while True:
                yield pickle.load(process.stdout)
        assert process.wait(10) == 0, "drawing failed"
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _draw(count: int, number: int, size: int, out: BinaryIO) -> None:
    batch: list[Case] = []
    left = count

    @seed(number)
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases())
    def draw(case: Case) -> None:
        nonlocal left
        batch.append(replace(case, requests=case.requests[:left]))
        left -= len(case.requests)
        if len(batch) == size or left <= 0:
            pickle.dump(batch, out)
            out.flush()
            batch.clear()
        if left <= 0:
            raise Enough

    with suppress(Enough):
        draw()


if __name__ == "__main__":
    _draw(*map(int, sys.argv[1:4]), out=sys.stdout.buffer)
