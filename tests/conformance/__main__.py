"""`make conformance N=100000 SEED=7`: as long as wanted; ends with 1 if Envoy and we disagree about anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from random import Random
from typing import Any

from tests.conformance import authorization, referee

_RUNS: dict[str, Callable[[int, int, Callable[[str], None]], Any]] = {
    "routing": referee.run,
    "authorization": authorization.run,
}


def main() -> int:
    """Runs and tells."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description="Envoy and we judge the same requests.")
    parser.add_argument("--n", type=int, default=20_000, help="requests")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; default: another one each time")
    parser.add_argument("--kind", choices=_RUNS, default="routing", help="what is judged")
    given = parser.parse_args()
    number = Random().randrange(10**6) if given.seed is None else given.seed
    print(f"SEED={number}", flush=True)
    result = _RUNS[given.kind](given.n, number, lambda text: print(text, flush=True))
    for what, times in sorted(result.covered.items(), key=lambda item: (item[0].split()[0], -item[1])):
        print(f"  {what}: {times}")
    print(f"SEED={number}: {result}")
    return 1 if result.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
