"""`meshlib ps`: who is connected, and whether everybody has the newest configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .client import find_api
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table


def ps(output: OutputOption = Format.TABLE, api: ApiOption = "") -> None:
    """Show the connected clients, whether they are in sync, and until when their certificates are valid."""
    items = find_api(api).get("/v1/proxies")["items"]
    if output is not Format.TABLE:
        write(document("ProxyList", items=items), output)
        return
    if not items:
        say("Nobody is connected. Join a program: meshlib run --service NAME --port PORT --token-file FILE -- COMMAND")
        return
    write_table(("NAME", "SERVICE", "CLIENT", "STATUS", "CERT", "ACCOUNT"), map(_row, items))
    for item in items:
        for error in item["errors"]:
            say(f"{item['name']} rejected {error['type']}: {error['error']} ({', '.join(error['objects']) or 'no object'})")


def _row(item: Mapping[str, Any]) -> list[str]:
    # Short words: six columns of Bookinfo's names have to stand in the 80 of a terminal.
    account, namespace = item["serviceAccount"], item["namespace"]
    return [
        item["name"],
        ",".join(item["services"]) or "-",
        item["client"].removeprefix("meshlib "),
        item["status"],
        item["certificate"],
        account if namespace == "default" else f"{namespace}/{account}",
    ]
