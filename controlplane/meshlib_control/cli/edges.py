"""`meshlib edges`: who talks to whom, and whether it is secured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import find_api
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table
from .pc_tables import short


def edges(
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="Only callers of this namespace.")] = "",
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Show which connected client calls which service, and whether it does so over mutual TLS.

    What counts is whom a client has called since it started. Envoys follow every service and are not shown.
    """
    items = find_api(api).get("/v1/edges", namespace=namespace)["items"]
    if output is not Format.TABLE:
        write(document("EdgeList", items=items), output)
        return
    if not items:
        say(f"Nobody{f' of namespace {namespace}' if namespace else ''} has called anybody yet.")
        return
    write_table(("CLIENT", "ACCOUNT", "SERVICE", "SECURITY"), map(_row, items))


def _row(item: Mapping[str, Any]) -> list[str]:
    client, service = item["client"], item["service"]
    account = client["identity"].rpartition("/sa/")[2]
    namespace = client["namespace"]
    return [
        client["name"],
        account if namespace == "default" else f"{namespace}/{account}",
        f"{short(service['host'])}:{service['port']}",
        item["security"],
    ]
