"""What `-f` names: a file, a folder of YAML files, or `-` for standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .failure import BAD_INPUT, USAGE, Failure

SUFFIXES = (".yaml", ".yml", ".json")  # as kubectl


@dataclass(frozen=True, slots=True)
class Manifest:
    """The text of one file, under the name that the user gave it."""

    file: str
    text: str

    def to_json(self) -> dict[str, str]:
        """As `/v1/apply` takes it."""
        return {"file": self.file, "documents": self.text}


def read_manifests(names: Iterable[str], command: str) -> list[Manifest]:
    """All manifests that the names stand for, each file once, in the order given, folders sorted by name.

    Raises:
        Failure: no name, nothing there, or not UTF-8 text.
    """
    files = list(dict.fromkeys(path for name in names for path in _files(name)))
    if not files:
        raise Failure("which files?", f"meshlib {command} -f FILE  (or a folder, or - for standard input)", USAGE)
    return [Manifest(file, _text(file)) for file in files]


def _files(name: str) -> Iterator[str]:
    if name == "-" or not Path(name).is_dir():
        yield name
        return
    found = sorted(path for path in Path(name).iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not found:
        raise Failure(f"the folder {name} holds no {', '.join(SUFFIXES)} file", f"ls {name}", BAD_INPUT)
    yield from map(str, found)


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot read {name}: {error.strerror}", f"ls -l {Path(name).parent}", BAD_INPUT) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{name} is not UTF-8 text", f"iconv -t utf-8 {name}", BAD_INPUT) from error
