"""`meshlib apply`."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import find_api
from .failure import BAD_INPUT, Failure
from .findings import print_findings
from .manifests import read_manifests
from .options import ApiOption, OutputOption
from .output import Format, document, write


def apply(
    files: Annotated[
        list[str] | None, typer.Option("--filename", "-f", metavar="FILE", help="A file, a folder, or - for standard input.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NS", help="For objects that name none themselves.")
    ] = "default",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Create or change objects from YAML: all of them, or none if one is wrong.

    Example: meshlib apply -f virtual-service-reviews.yaml
    """
    manifests = read_manifests(files or [], "apply")
    answer = find_api(api).post(
        "/v1/apply",
        {
            "files": [manifest.to_json() for manifest in manifests],
            "namespace": namespace,
            "dryRun": dry_run,
            "author": author(),
        },
    )
    if not answer["changes"]:
        raise Failure(
            f"no objects in {', '.join(manifest.file for manifest in manifests)}", "meshlib apply -f FILE", BAD_INPUT
        )
    if output is not Format.TABLE:
        write(document("ApplyResult", **answer), output)
        return
    for change in answer["changes"]:
        print(_line(change, dry_run=dry_run))
    print_findings(answer["findings"])


def author() -> str:
    """Who types, as `alice@laptop`: for the history of changes, not for access."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user id
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _line(change: Mapping[str, Any], *, dry_run: bool) -> str:
    return f"{change['resource']} {change['action']}{' (dry run)' if dry_run else ''}"
