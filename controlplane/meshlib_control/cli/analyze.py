"""`meshlib analyze`: what is wrong, or will be, before a request finds out."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from .client import find_api
from .failure import BAD_INPUT, ISSUES_FOUND, Failure
from .findings import at_least, print_findings
from .manifests import Manifest, read_manifests
from .options import ApiOption, OutputOption
from .output import Format, document, say, write


class Threshold(StrEnum):
    """From which severity on issues count."""

    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


def analyze(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files or folders, as -f.")] = None,
    files: Annotated[
        list[str] | None, typer.Option("--filename", "-f", metavar="FILE", help="A file, a folder, or - for standard input.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NS", help="For objects that name none themselves.")
    ] = "default",
    failure_threshold: Annotated[
        Threshold, typer.Option(help="Exit with 79 if an issue is at least this severe.", case_sensitive=False)
    ] = Threshold.ERROR,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> int:
    """Look for mistakes: in the running mesh, or in files alone, without a control plane.

    Example: meshlib analyze examples/bookinfo/networking
    """
    names = [*(paths or []), *(files or [])]
    findings = _offline(read_manifests(names, "analyze"), namespace) if names else find_api(api).get("/v1/analyze")["findings"]
    if output is Format.TABLE:
        print_findings(findings, sys.stdout)
        if not findings:
            say("No issues found.")
    else:
        write(document("Analysis", findings=findings), output)
    return ISSUES_FOUND if at_least(findings, failure_threshold) else 0


def _offline(manifests: list[Manifest], namespace: str) -> list[dict[str, Any]]:
    from meshlib_control.desk import analyze_files

    findings, errors = analyze_files([(manifest.file, manifest.text) for manifest in manifests], namespace)
    if errors:
        text = "\n       ".join(map(str, errors))
        raise Failure(text, f"correct {errors[0].file} and run the command again", BAD_INPUT)
    return findings
