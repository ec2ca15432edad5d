"""Options that several commands have, so that they read the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import Format

ApiOption = Annotated[
    str,
    typer.Option("--api", envvar="MESHLIB_API", metavar="URL", help="The control plane's API; found by itself if not given."),
]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The namespace.")]
