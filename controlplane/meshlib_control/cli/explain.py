"""`meshlib explain`: where a request would go, and which line of which file says so."""

from __future__ import annotations

from typing import Annotated

import typer

from .client import find_api
from .failure import USAGE, Failure
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, document, write


def explain(
    method: Annotated[str, typer.Argument(help="GET, POST, ...")],
    url: Annotated[str, typer.Argument(help="As the calling program writes it: http://reviews:9080/reviews/0")],
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header of the request; repeatable.")
    ] = None,
    caller: Annotated[str, typer.Option("--from", metavar="SERVICE", help="Who asks; policy may depend on it.")] = "",
    namespace: NamespaceOption = "default",
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Explain where a request goes: host, route, subset, endpoints, timeout, retries, and what decided each.

    Example: meshlib explain GET http://reviews:9080/reviews/0 -H 'end-user: jason' --from productpage
    """
    question = {
        "method": method.upper(),
        "url": url if "://" in url else f"http://{url}",
        "headers": [read_header(text) for text in headers or []],
        "from": caller,
        "namespace": namespace,
    }
    answer = find_api(api).post("/v1/explain", question)
    if output is not Format.TABLE:
        write(document("Explanation", **answer), output)
        return
    from .explanation import print_explanation

    print_explanation(answer)


def read_header(text: str) -> list[str]:
    """`end-user: jason` as name and value."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise Failure(f"-H {text!r} is no header", "-H 'end-user: jason'", USAGE)
    return [name.strip().lower(), value.strip()]
