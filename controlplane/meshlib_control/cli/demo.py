"""`meshlib demo`: the whole product in one command. Thin: `meshlib_control.demo` does it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from meshlib_control.current import home_folder

from .failure import USAGE, Failure


def demo(
    name: Annotated[str, typer.Argument(help="Which demonstration; bookinfo is the only one.")] = "bookinfo",
    host: Annotated[str, typer.Option("--host", help="Address of every listener.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the page.")] = 9080,
    xds_port: Annotated[int, typer.Option("--xds-port", min=1, max=65535, help="Port that services join at.")] = 15012,
    api_port: Annotated[int, typer.Option("--api-port", min=1, max=65535, help="Port of the API.")] = 15014,
) -> int:
    """Start a control plane and Bookinfo's six programs, until Ctrl-C.

    Example: meshlib demo bookinfo
    """
    if name != "bookinfo":
        raise Failure(f"there is no demonstration {name!r}", "meshlib demo bookinfo", USAGE)
    from meshlib_control.demo import DemoOptions, main

    return main(DemoOptions(home=home_folder(os.environ), host=host, port=port, xds_port=xds_port, api_port=api_port))
