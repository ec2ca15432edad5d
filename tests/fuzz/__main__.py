"""`make fuzz`: every target for a while with inputs that coverage guides (Atheris, libFuzzer), each in a process of its own.

A crash, an input that takes 5 s, or 1 GiB of memory ends a target; its bytes are kept in `crashes/` and named.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path("crashes")


def main() -> int:
    """Run all targets, or one; the exit status is 1 if any crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="for all targets together")
    parser.add_argument("--target", help="only this one, in this process")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.target:
        _fuzz(chosen.target, int(chosen.minutes * 60), chosen.seed)
        return 0
    from tests.fuzz.targets import TARGETS

    share = chosen.minutes / len(TARGETS)
    return 1 if [name for name in TARGETS if not _held(name, share, chosen.seed)] else 0


def _held(name: str, minutes: float, seed: int) -> bool:
    command = [sys.executable, "-m", "tests.fuzz", "--target", name, "--minutes", str(minutes), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    runs, peak = _last(r"number_of_executed_units: (\d+)", done.stderr), _last(r"peak_rss_mb: +(\d+)", done.stderr)
    print(f"{name}: {'FELL' if done.returncode else 'held'}, {runs} inputs, at most {peak} MiB", flush=True)
    if done.returncode:
        print(done.stdout[-2000:])  # the traceback; the bytes are in crashes/
    return not done.returncode


def _last(pattern: str, text: str) -> str:
    return next(reversed(re.findall(pattern, text)), "?")


def _fuzz(name: str, seconds: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["meshlib", "meshlib_control", "json", "yaml"]):
        from tests.fuzz.targets import TARGETS
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, sample in enumerate(TARGETS[name].samples()):
            Path(corpus, str(number)).write_bytes(sample)
        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", f"-seed={seed}", "-print_final_stats=1"]
        atheris.Setup(
            [sys.argv[0], *limits, f"-artifact_prefix={FOLDER}/{name.replace(' ', '-')}-", corpus], TARGETS[name].read
        )
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
