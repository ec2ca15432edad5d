"""What `meshlib bootstrap envoy` and `bootstrap grpc` have in common: who joins, where, and the file that is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .failure import USAGE, Failure
from .output import say

PORT: Final[dict[str, Any]] = {"min": 0, "max": 65535}
"""0: not given."""

Port = Annotated[int, typer.Option("--port", "-p", **PORT, help="The service's port, as others call it.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The program's namespace.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label, as in version=v2; repeatable.")
]
Instance = Annotated[str, typer.Option("--instance", metavar="NAME", help="This instance's name.")]
Address = Annotated[str, typer.Option("--address", metavar="IP", help="Where others reach this instance.")]
TokenFile = Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")]
ControlPlane = Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to join.")]
ControlPlaneMtls = Annotated[
    str,
    typer.Option(
        "--control-plane-mtls", metavar="HOST:PORT", help="Its port for clients with certificates; the next one if not given."
    ),
]
RootCert = Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")]
WriteTo = Annotated[str, typer.Option("--write", metavar="FILE", help="Where to write it, instead of stdout.")]
Keep = Annotated[bool, typer.Option("--keep", help="Stay, and renew the certificate at half of its life, until Ctrl-C.")]


def port_of(service: str, port: int, target_port: int) -> int:
    """Where a service's instance is called; 0 without a service. Raises Failure: nobody said."""
    if service and not (target_port or port):
        raise Failure("at which port do others call the service?", f"--service {service} --port 9080", USAGE)
    return (target_port or port) if service else 0


def member(port: int, labels: Sequence[str] | None, **words: str) -> dict[str, str]:
    """Options as `MESHLIB_*`; `service="ratings"` is MESHLIB_SERVICE."""
    given = {"port": str(port or ""), "labels": ",".join(labels or ()), **words}
    return {f"MESHLIB_{name.upper()}": value for name, value in given.items()}


def write_bootstrap(text: str, path: str, following: str) -> None:
    """To a file, or to stdout if none is named.

    Args:
        following: the next thing to do, told where there is a file.

    Raises:
        Failure: the file cannot be written.
    """
    if not path:
        print(text)
        return
    try:
        Path(path).write_text(text + "\n")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}", "--write FILE in a folder that exists", USAGE) from error
    say(f"Next: {following}")
