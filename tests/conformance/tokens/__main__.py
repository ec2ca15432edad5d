"""`python -m tests.conformance.tokens --n 100000 --seed 7`; ends with 1 if Envoy and we disagree about anything."""

from __future__ import annotations

import argparse
import sys
from random import Random

from tests.conformance.tokens import referee


def main() -> int:
    """Runs and tells."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.tokens", description="Envoy and we judge tokens.")
    parser.add_argument("--n", type=int, default=20_000, help="requests")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; default: another one each time")
    given = parser.parse_args()
    seed = Random().randrange(10**6) if given.seed is None else given.seed
    print(f"SEED={seed}", flush=True)
    result = referee.run(given.n, seed)
    for what, times in result.covered.most_common():
        print(f"  {what}: {times}")
    for one in result.disagreements[:12]:
        print(f"\nDISAGREEMENT\n{one}")
    print(f"SEED={seed}: {len(result.disagreements)} of {result.requests} requests differ; stricter: {result.stricter}")
    return 1 if result.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
