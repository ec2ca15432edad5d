"""`meshlib history`: who did what, when; also what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from .client import find_api
from .get import age, selection
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table


def history(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KIND [NAME]]", help="As in get; default: everything.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="Default: every namespace.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many lines to look back.")] = 1000,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Show what was changed, handed out and refused, newest first: by whom, when, in which revision.

    Examples: meshlib history,  meshlib history vs reviews,  meshlib history -n shop -o json
    """
    kinds, names = selection(what) if what else ([""], [])
    asked = [(kind, name) for kind in kinds for name in names or [""]]
    target = find_api(api)
    items = [
        item
        for kind, name in asked
        for item in target.get("/v1/history", kind=kind, namespace=namespace, name=name, limit=str(limit))["items"]
    ]
    if output is not Format.TABLE:
        write(document("History", items=items), output)
        return
    if not items:
        say("Nothing was done yet.")
        return
    write_table(("AGE", "REVISION", "AUTHOR", "ACTION", "OBJECT", "FILE"), map(_row, items))


def _row(item: Mapping[str, Any]) -> list[str]:
    what = f"{item['namespace']}/{item['name']}".strip("/")
    return [
        age(item["time"], datetime.now(UTC)),
        str(item["revision"]),
        item["author"],
        item["action"],
        f"{item['kind']} {what}",
        item["file"] or item["document"].get("reason", ""),
    ]
