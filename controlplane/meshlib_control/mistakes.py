"""What is wrong with an object, as a value and as an error.

Texts about single fields follow the API server's words (`spec.hosts: Required value`), so that what a user knows from kubectl
reads the same here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshlib.errors import ConfigurationError

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_@-]+")
_LAST_STEP: Final = re.compile(r"(\.[^.\[\]]+|\[(?:\d+|\"[^\"]*\")\])$")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong.

    Args:
        field: path inside the object, `spec.http[0].route[0].weight`; empty for the object as a whole.
        problem: what is wrong.
        suggestion: what to write instead; may be empty.
    """

    field: str
    problem: str
    suggestion: str = ""


class InvalidObject(ConfigurationError):
    """An object that cannot be accepted; `suggestion` says what to write instead and may be empty."""

    def __init__(self, problem: str, *, suggestion: str = "", field: str = "", file: str = "", line: int = 0) -> None:
        super().__init__(problem, field=field, file=file, line=line)
        self.suggestion = suggestion

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {self.suggestion}" if self.suggestion else text


def child(path: str, key: str) -> str:
    """The path of a key below `path`; unusual keys (`app.kubernetes.io/name`) go into brackets."""
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def item(path: str, index: int) -> str:
    """The path of a list's item."""
    return f"{path}[{index}]"


def line_of(lines: Mapping[str, int], field: str) -> int:
    """The line of a field, or of the nearest thing around it that was written down; 0 if there are no lines."""
    while field not in lines:
        shorter = _LAST_STEP.sub("", field)
        if shorter == field:
            return lines.get("", 0)
        field = shorter
    return lines[field]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean timeout?`, or nothing if no known word is near."""
    by_simple = {_simple(name): name for name in sorted(known, key=_usual)}
    near = difflib.get_close_matches(_simple(word), by_simple, n=1, cutoff=0.6)
    return f"did you mean {by_simple[near[0]]}?" if near else ""


def _usual(name: str) -> bool:
    """False first: of two spellings of one field, `jwks_uri` and `jwksUri`, the last one is proposed."""
    return "_" not in name


def _simple(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()
