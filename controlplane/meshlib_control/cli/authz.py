"""`meshlib authz`: who may do what, and which line of which file says so."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import find_api
from .explain import read_header
from .failure import BAD_INPUT, ISSUES_FOUND, Failure, paint
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, document, write

app = typer.Typer(help="Who may do what, by the AuthorizationPolicies in force.", no_args_is_help=True)

_COLOURS = {"allow": "32", "deny": "31", "ask": "33"}


@app.callback()
def _group() -> None:
    """Who may do what, by the AuthorizationPolicies in force."""


@app.command("check")
def check(
    method: Annotated[str, typer.Argument(help="GET, POST, ...")],
    url: Annotated[str, typer.Argument(help="As the calling program writes it: http://reviews:9080/reviews/0")],
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header of the request; repeatable.")
    ] = None,
    caller: Annotated[
        str,
        typer.Option("--from", metavar="ACCOUNT", help="Service account, NAMESPACE/ACCOUNT or SPIFFE id; empty: plain text."),
    ] = "",
    address: Annotated[str, typer.Option("--address", metavar="IP", help="Where the caller is.")] = "127.0.0.1",
    namespace: NamespaceOption = "default",
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> int:
    """Tell what each instance of a service would answer to a request. The exit code is 79 if one of them refuses.

    Example: meshlib authz check GET http://ratings:9080/ratings/0 --from bookinfo-reviews
    """
    question = {
        "method": method.upper(),
        "url": url if "://" in url else f"http://{url}",
        "headers": [read_header(text) for text in headers or []],
        "from": caller,
        "address": address,
        "namespace": namespace,
    }
    answer = find_api(api).post("/v1/authz", question)
    if not answer["answers"]:
        near = " or ".join(answer["servedAt"])
        raise Failure(f"nobody serves {url}", near or "meshlib ps shows who is connected", BAD_INPUT)
    if output is Format.TABLE:
        _print(answer)
    else:
        write(document("AuthorizationCheck", **answer), output)
    return ISSUES_FOUND if any(one["decision"] == "deny" for one in answer["answers"]) else 0


def _print(answer: Mapping[str, Any]) -> None:
    request = answer["request"]
    print(f"{request['method']} {request['url']} from {answer['peer'] or 'plain text'}")
    for one in answer["answers"]:
        print(f"{paint(one['decision'], _COLOURS[one['decision']], sys.stdout)}  {one['instance']} ({one['mode']})")
        for line in filter(None, (one["reason"], _place(one["origin"], closest=bool(one.get("closest"))))):
            print(f"       {line}")


def _place(origin: Mapping[str, Any] | None, *, closest: bool) -> str:
    word = "see" if closest else "by"
    return f"{word} {origin['object']} {origin['field']}, {origin['file']}:{origin['line']}" if origin else ""
