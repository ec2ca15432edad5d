"""How a command fails: a sentence, the next thing to do, an exit code.

0    ok
1    failure
64   wrong usage (sysexits EX_USAGE)
65   bad input (EX_DATAERR): a file that cannot be applied
69   the control plane cannot be reached (EX_UNAVAILABLE)
79   `analyze` found issues (istioctl's own)
130  Ctrl-C
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

FAILURE = 1
USAGE = 64
BAD_INPUT = 65
UNREACHABLE = 69
ISSUES_FOUND = 79
INTERRUPTED = 130


class Failure(Exception):
    """A command cannot do what it was told.

    Args:
        message: what is wrong.
        advice: the next thing to do, best a command to type.
        code: the exit code.
    """

    def __init__(self, message: str, advice: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.code = code


def report(failure: Failure) -> int:
    """Tell stderr about a failure. Returns its exit code."""
    print(f"{paint('Error:', '1;31')} {failure.message}", file=sys.stderr)
    print(f"{paint('Try:', '1')} {failure.advice}", file=sys.stderr)
    return failure.code


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """The text in an ANSI colour if the stream (stderr by default) shows colours."""
    return f"\033[{code}m{text}\033[0m" if shows_colour(stream or sys.stderr, os.environ) else text


def shows_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal whose reader wants colours (https://no-color.org)."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def usage_failure(error: Exception) -> Failure | None:
    """A usage error of typer, or of the click it is built on, as a Failure; None if it is another kind of error."""
    words: Any = getattr(error, "format_message", None)
    if words is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "meshlib"
    text = str(words()) or "a command is missing"
    return Failure(text, f"{command} --help", USAGE)
