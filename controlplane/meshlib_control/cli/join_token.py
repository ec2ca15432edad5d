"""`meshlib token`: credentials for services that do not get theirs from Kubernetes, and for people who use the API."""

from __future__ import annotations

from typing import Annotated

import typer

from .client import find_api
from .duration import parse_duration
from .failure import USAGE, Failure
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, document, write

app = typer.Typer(help="Tokens with which services join the mesh, and people use the API.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Tokens with which services join the mesh, and people use the API."""


@app.command("create")
def create(
    service_account: Annotated[
        str, typer.Option("--service-account", metavar="NAME", help="Whose token: it becomes part of the SPIFFE id.")
    ] = "",
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="A person's token, for the API; roles say what it can.")
    ] = "",
    groups: Annotated[list[str] | None, typer.Option("--group", metavar="NAME", help="A group of that person.")] = None,
    use: Annotated[str, typer.Option("--for", metavar="join|api", help="What a service account's token is for.")] = "join",
    namespace: NamespaceOption = "default",
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it can be used, as in 90m, 24h or 30d.")] = "24h",
    once: Annotated[
        bool, typer.Option("--once", help="It is good for one certificate: one process joins with it, once.")
    ] = False,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Make a token and print it.

    A service gets its join token as MESHLIB_TOKEN or MESHLIB_TOKEN_FILE; commands take an API token as MESHLIB_API_TOKEN or
    MESHLIB_API_TOKEN_FILE.

    Examples: meshlib token create --service-account bookinfo-reviews > reviews.token,
    meshlib token create --user alice --group dev --ttl 12h > alice.token
    """
    if bool(user) == bool(service_account):
        raise Failure("whose token? Give --service-account or --user", "meshlib token create --service-account NAME", USAGE)
    if use not in ("join", "api"):
        raise Failure(f"--for {use!r} is neither join nor api", "--for api", USAGE)
    whose = {"user": user, "groups": groups or []} if user else {"serviceAccount": service_account, "use": use}
    seconds = parse_duration(ttl, "--ttl")
    answer = find_api(api).post("/v1/tokens", {"namespace": namespace, "lifetimeSeconds": seconds, "once": once, **whose})
    if output is Format.TABLE:
        print(answer["token"])
        return
    write(document("Token", **answer), output)
