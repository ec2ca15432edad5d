"""`meshlib ratelimit`: run a rate limit service in the foreground."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from meshlib_control.errors import CannotStart

from .failure import Failure
from .output import say


def ratelimit(
    config: Annotated[
        Path,
        typer.Option("--config", metavar="DIR", help="A folder of YAML in the format of envoyproxy/ratelimit; it is watched."),
    ],
    address: Annotated[
        str, typer.Option("--address", metavar="HOST:PORT", help="Where it is asked (gRPC). Port 0: any free one.")
    ] = "127.0.0.1:8081",
    redis: Annotated[
        str, typer.Option("--redis", metavar="URL", help="Count in Redis, redis://127.0.0.1:6379/0; in memory if not given.")
    ] = "",
    on_failure: Annotated[
        str, typer.Option("--on-failure", metavar="error|allow|deny", help="What requests get while Redis is away.")
    ] = "error",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell about every change of the limits.")] = False,
) -> int:
    """Run a rate limit service until Ctrl-C: Envoy's protocol, the configuration of envoyproxy/ratelimit.

    Example: MESHLIB_SERVICE=ratelimit meshlib run -- meshlib ratelimit --config limits/
    """
    from meshlib_control.rate_limit_service.serve import ServiceOptions, serve
    from meshlib_control.rate_limit_service.service import OnFailure

    if on_failure not in set(OnFailure):
        raise Failure(f"--on-failure {on_failure} is unknown", "use error, allow or deny")
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(serve(ServiceOptions(config, address, redis, OnFailure(on_failure)), say))
    except CannotStart as error:
        raise Failure(error.problem, error.advice) from error
    return 0
