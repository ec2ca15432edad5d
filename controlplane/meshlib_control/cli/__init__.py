"""The `meshlib` command.

Rule 1: what a command does not need it does not import; `meshlib version` answers in a blink.
Rule 2: data goes to stdout, talk and errors to stderr; every error ends with the next thing to do.
Rule 3: exit codes are those of sysexits.h and istioctl, see `failure`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .failure import INTERRUPTED, Failure, report, usage_failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (without the program's name). Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["version"], ["--version"]):
        # Asked most often by scripts; typer and what it needs would take ten times as long as the answer.
        from .version_line import print_version

        return print_version()
    try:
        return _run(words)
    except Failure as failure:
        return report(failure)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # typer's own errors; their class moved between its releases, so they are known by their form
        wrong_usage = usage_failure(error)
        if wrong_usage is None:
            raise
        return report(wrong_usage)


def _run(words: list[str]) -> int:
    from .app import build_app

    result = build_app(words)(words, prog_name="meshlib", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _reader_left() -> int:
    # `meshlib get ... | head`: the interpreter must not complain when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
