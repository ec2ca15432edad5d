"""`meshlib pc`: what a client was sent and acknowledged, against what it should have. The sub-commands are istioctl's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from .client import find_api
from .failure import FAILURE, USAGE, Failure
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table

app = typer.Typer(help="What a client was sent and acknowledged.", no_args_is_help=True)

_ALIASES = {"listener": ("l",), "route": ("r",), "cluster": ("c",), "endpoint": ("ep", "endpoints"), "secret": ("s",)}

Name = Annotated[str, typer.Argument(metavar="NAME", help="A client, as `meshlib ps` names it; NAME.NAMESPACE where needed.")]
Admin = Annotated[
    str, typer.Option("--admin", metavar="URL", help="An Envoy's administration: compares what it uses with what it was sent.")
]
Csds = Annotated[
    str,
    typer.Option("--csds", metavar="HOST:PORT", help="A gRPC program's client status service: compares, as --admin does."),
]
Row = dict[str, Any]


@app.callback()
def _group() -> None:
    """What a client was sent and acknowledged, against what it should have."""


def _command(kind: str) -> Callable[..., None]:
    def show(name: Name, admin: Admin = "", csds: Csds = "", output: OutputOption = Format.TABLE, api: ApiOption = "") -> None:
        _show(kind, name, admin, csds, output, api)

    show.__doc__ = f"Show the {kind}s of a client.\n\nExample: meshlib pc {kind} reviews-v1"
    return show


for _kind, _short in _ALIASES.items():
    for _name in (_kind, *_short):
        app.command(_name, hidden=_name != _kind)(_command(_kind))


def _show(kind: str, name: str, admin: str, csds: str, output: Format, api: str) -> None:
    if admin and csds:
        raise Failure("--admin is for an Envoy, --csds for a gRPC program", f"meshlib pc {kind} {name} --csds {csds}", USAGE)
    # Whose resources a gRPC program's are shows only when all types are looked at.
    found = find_api(api).get(f"/v1/proxies/{quote(name, safe='')}/config", type="" if csds else kind)["items"]
    if admin:
        found = _with_config_dump(kind, name, admin, found)
    if csds:
        found = _with_client_status(kind, name, csds, found)
    if output is not Format.TABLE:
        write(document("ProxyConfig", items=found), output)
        return
    for item in found:
        if len(found) > 1:
            say(f"{item['id']} ({item['kind']}, since {item['connectedSince']})")
        _print(kind, item)


def _with_config_dump(kind: str, name: str, admin: str, found: list[Row]) -> list[Row]:
    from .envoy_admin import with_config_dump

    if len(found) != 1 or found[0]["kind"] != "envoy":
        raise Failure(f"--admin is for one Envoy; {name} is {_what(found)}", f"meshlib pc {kind} {name}", FAILURE)
    return [{**found[0], "resources": with_config_dump(admin, kind, found[0]["resources"])}]


def _with_client_status(kind: str, name: str, csds: str, found: list[Row]) -> list[Row]:
    from .client_status import with_client_status

    if any(item["kind"] != "grpc" for item in found):
        raise Failure(f"--csds is for gRPC's own client; {name} is {_what(found)}", f"meshlib pc {kind} {name}", FAILURE)
    return with_client_status(csds, kind, found)


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
