"""`meshlib pc`: what a client was sent and acknowledged, against what it should have. The sub-commands are istioctl's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from .client import find_api
from .failure import FAILURE, Failure
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table

app = typer.Typer(help="What a client was sent and acknowledged.", no_args_is_help=True)

_ALIASES = {"listener": ("l",), "route": ("r",), "cluster": ("c",), "endpoint": ("ep", "endpoints"), "secret": ("s",)}

Name = Annotated[str, typer.Argument(metavar="NAME", help="A client, as `meshlib ps` names it; NAME.NAMESPACE where needed.")]
Admin = Annotated[
    str, typer.Option("--admin", metavar="URL", help="An Envoy's administration: compares what it uses with what it was sent.")
]
Row = Mapping[str, Any]


@app.callback()
def _group() -> None:
    """What a client was sent and acknowledged, against what it should have."""


def _command(kind: str) -> Callable[..., None]:
    def show(name: Name, admin: Admin = "", output: OutputOption = Format.TABLE, api: ApiOption = "") -> None:
        _show(kind, name, admin, output, api)

    show.__doc__ = f"Show the {kind}s of a client.\n\nExample: meshlib pc {kind} reviews-v1"
    return show


for _kind, _short in _ALIASES.items():
    for _name in (_kind, *_short):
        app.command(_name, hidden=_name != _kind)(_command(_kind))


def _show(kind: str, name: str, admin: str, output: Format, api: str) -> None:
    found = find_api(api).get(f"/v1/proxies/{quote(name, safe='')}/config", type=kind)["items"]
    if admin:
        from .envoy_admin import compared

        if len(found) != 1 or found[0]["kind"] != "envoy":
            raise Failure(f"--admin is for one Envoy; {name} is {_what(found)}", f"meshlib pc {kind} {name}", FAILURE)
        found = [{**found[0], "resources": compared(admin, kind, found[0]["resources"])}]
    if output is not Format.TABLE:
        write(document("ProxyConfig", items=found), output)
        return
    for item in found:
        if len(found) > 1:
            say(f"{item['id']} ({item['kind']}, since {item['connectedSince']})")
        _print(kind, item)


def _what(found: list[Row]) -> str:
    return ", ".join(f"{item['name']} ({item['kind']})" for item in found)


def _print(kind: str, item: Row) -> None:
    from .pc_tables import TABLES, differences

    resources = item["resources"]
    if not resources:
        own = " It makes its key itself; until when its certificate is valid: meshlib ps" if kind == "secret" else ""
        say(f"{item['name']} asks for no {kind}s.{own}")
        return
    headers, rows_of = TABLES[kind]
    in_use = any("inUse" in resource for resource in resources)
    ends = [[resource["status"], *([resource["inUse"]] if in_use else [])] for resource in resources]
    rows = [[*row, *end] for resource, end in zip(resources, ends, strict=True) for row in rows_of(resource)]
    write_table((*headers, "STATUS", *(("IN USE",) if in_use else ())), rows)
    if item["changing"]:
        say("A change is about to be published.")
    for resource in resources:
        for line in differences(resource):
            say(line)
