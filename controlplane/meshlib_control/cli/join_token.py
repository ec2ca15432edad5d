"""`meshlib token`: credentials for services that do not get theirs from Kubernetes."""

from __future__ import annotations

from typing import Annotated

import typer

from .client import find_api
from .duration import parse_duration
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, document, write

app = typer.Typer(help="Tokens with which services join the mesh.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Tokens with which services join the mesh."""


@app.command("create")
def create(
    service_account: Annotated[
        str, typer.Option("--service-account", metavar="NAME", help="Whose token: it becomes part of the SPIFFE id.")
    ],
    namespace: NamespaceOption = "default",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it can be used, as in 90m, 24h or 30d.")] = "24h",
    once: Annotated[
        bool, typer.Option("--once", help="It is good for one certificate: one process joins with it, once.")
    ] = False,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Make a token for a service account and print it; give it to the service as MESHLIB_TOKEN or MESHLIB_TOKEN_FILE.

    Example: meshlib token create --service-account bookinfo-reviews > reviews.token
    """
    seconds = parse_duration(ttl, "--ttl")
    answer = find_api(api).post(
        "/v1/tokens",
        {"namespace": namespace, "serviceAccount": service_account, "lifetimeSeconds": seconds, "once": once},
    )
    if output is Format.TABLE:
        print(answer["token"])
        return
    write(document("Token", **answer), output)
