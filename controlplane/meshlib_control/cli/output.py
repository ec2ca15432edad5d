"""What commands print: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from .failure import shows_colour

API_VERSION = "cli.meshlib.dev/v1"

_STYLES = {
    "Error": "bold red",
    "Warning": "yellow",
    "rejected": "bold red",
    "expired": "bold red",
    "synced": "green",
    "mutual TLS": "green",
    "plain text": "yellow",
    "effective": "green",
    "partly effective": "yellow",
    "not effective yet": "yellow",
    "pending": "yellow",
}


class Format(StrEnum):
    """The values of `-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def document(kind: str, **content: Any) -> dict[str, Any]:
    """Data of a command's own kind, with the version that promises its shape to scripts."""
    return {"apiVersion": API_VERSION, "kind": kind, **content}


def write(data: Mapping[str, Any], form: Format) -> None:
    """Print data as JSON or YAML."""
    if form is Format.JSON:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    import yaml

    # The C dumper writes the same text as the Python one, ten times faster.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    print(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True), end="")


def write_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; on a terminal long cells are folded to its width, in a pipe each row is one line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, width=None if terminal else 10_000, no_color=not shows_colour(sys.stdout, os.environ), highlight=False
    )
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def say(text: str) -> None:
    """Talk to the person, not to the pipe."""
    print(text, file=sys.stderr, flush=True)
