"""A short run of every target with samples changed by chance; the long run, guided by coverage, is `make fuzz`."""

from __future__ import annotations

import time
from random import Random, SystemRandom

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

TIMES = 400
LONGEST = 2.0  # seconds for one input: a hang, whatever the machine is doing


@pytest.mark.parametrize("name", TARGETS)
def test_samples_are_read(name: str) -> None:
    """A target whose samples are garbage to it would test nothing."""
    samples = list(TARGETS[name].samples())
    assert samples
    for sample in samples:
        TARGETS[name].read(sample)


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_crash_or_hang_a_reader(name: str) -> None:
    """Errors that a reader promises are answers; all others fail this test, with the bytes."""
    seed = SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    chance, samples = Random(seed), list(TARGETS[name].samples())
    for _ in range(TIMES):
        data = mutated(samples, chance)
        began = time.process_time()
        try:
            TARGETS[name].read(data)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r} ended with {type(error).__name__}: {error}") from error
        assert time.process_time() - began < LONGEST, f"seed {seed}: {data!r}"
