"""`meshlib run`: join an unmodified program to the mesh. Thin: `meshlib.run.launch` does it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from meshlib_control.current import home_folder, read_current

from .failure import USAGE, Failure


def run(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND [ARG]...", help="The program.")] = None,
    service: Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The service that the program serves.")] = "",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="The service's port, as others call it.")] = 0,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The service's namespace.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label, as in version=v2; repeatable.")
    ] = None,
    instance: Annotated[
        str, typer.Option("--instance", metavar="NAME", help="This process's name; the host's if not given.")
    ] = "",
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")] = "",
    control_plane: Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to join.")] = "",
    root_cert: Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")] = "",
    prefetch: Annotated[
        list[str] | None, typer.Option("--prefetch", metavar="HOST:PORT", help="A destination to be ready for; repeatable.")
    ] = None,
    forward_headers: Annotated[
        list[str] | None, typer.Option("--forward-header", metavar="NAME", help="A header to hand on; repeatable.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End if the mesh cannot be joined, instead of going on without.")
    ] = False,
) -> int:
    """Run a program in the mesh, without a change to it.

    Example: meshlib run --service reviews --port 9080 --label version=v2 -- uvicorn app:app
    """
    if not command:
        raise Failure("which program?", "meshlib run --service NAME --port PORT -- uvicorn app:app", USAGE)
    settings = {
        "MESHLIB_SERVICE": service,
        "MESHLIB_PORT": str(port) if port else "",
        "MESHLIB_NAMESPACE": namespace,
        "MESHLIB_LABELS": _labels(labels or []),
        "MESHLIB_INSTANCE": instance,
        "MESHLIB_TOKEN_FILE": _absolute(token_file),
        "MESHLIB_CONTROL_PLANE": control_plane,
        "MESHLIB_ROOT_CERT": _absolute(root_cert),
        "MESHLIB_PREFETCH": ",".join(prefetch or []),
        "MESHLIB_FORWARD_HEADERS": ",".join(forward_headers or []),
        "MESHLIB_STRICT": "1" if strict else "",
    }
    return _launch(command, {name: value for name, value in settings.items() if value})


def _found() -> dict[str, str]:
    """The control plane of this user, for who names none: as the other commands find it."""
    if "MESHLIB_CONTROL_PLANE" in os.environ:
        return {}
    current = read_current(home_folder(os.environ))
    return {"MESHLIB_CONTROL_PLANE": current.xds, "MESHLIB_ROOT_CERT": current.root_cert} if current else {}


def _launch(command: list[str], settings: dict[str, str]) -> int:
    from meshlib.errors import SettingsError
    from meshlib.run import launch

    try:
        found = {} if "MESHLIB_CONTROL_PLANE" in settings else _found()
        return launch(command, {**found, **os.environ, **settings})
    except SettingsError as error:
        raise Failure(str(error), "meshlib run --help", USAGE) from error


def _labels(labels: list[str]) -> str:
    for label in labels:
        if not label.partition("=")[0] or "=" not in label:
            raise Failure(f"--label {label!r} is no label", "--label version=v2", USAGE)
    return ",".join(labels)


def _absolute(path: str) -> str:
    # The program may change its folder, and reads the file again later.
    return os.path.abspath(path) if path else ""
