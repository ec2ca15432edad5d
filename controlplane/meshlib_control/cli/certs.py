"""`meshlib cert keep`, `cert serve`: a member's certificate for programs without the library. The other commands: `cert`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .joining import first_certificate, keep_fresh, serve_fresh, settings_from

if TYPE_CHECKING:
    from meshlib.runtime.settings import Settings

TokenFile = Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")]
Instance = Annotated[str, typer.Option("--instance", metavar="NAME", help="Whose it is, for `meshlib ps`.")]
ControlPlane = Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to ask.")]
RootCert = Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")]

app = typer.Typer(help="Certificates: for programs without the library, and as ports show them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Certificates: for programs without the library, and as ports show them."""


@app.command("keep")
def keep(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Gets cert-chain.pem, key.pem, root-cert.pem; others may not look.")
    ],
    token_file: TokenFile = "",
    instance: Instance = "",
    control_plane: ControlPlane = "",
    root_cert: RootCert = "",
    once: Annotated[bool, typer.Option("--once", help="Get one, and do not stay to renew it.")] = False,
) -> int:
    """Get a certificate into a folder, and renew it there at half of its life until Ctrl-C.

    The token says whose it is. It is read again for each renewal, so that it may be replaced in its file.

    Example: meshlib cert keep /run/ratings --token-file ratings.token
    """
    from meshlib.runtime.certificate_files import CertificateFolder

    settings = _settings(token_file, instance, control_plane, root_cert)
    keeper = first_certificate(settings, CertificateFolder(folder.absolute()))
    if not once:
        keep_fresh(keeper)
    return 0


@app.command("serve")
def serve(
    socket: Annotated[
        str, typer.Argument(metavar="SOCKET", help="Where: unix:///run/meshlib/workload.sock, or only the path.")
    ],
    token_file: TokenFile = "",
    instance: Instance = "",
    control_plane: ControlPlane = "",
    root_cert: RootCert = "",
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="Whose members may have the identity as well as this user.")
    ] = "",
) -> int:
    """Serve a certificate and its key by the SPIFFE Workload API on a Unix socket, and renew it until Ctrl-C.

    The token says whose it is. Everybody who may open the socket gets this one identity.

    Example: meshlib cert serve unix:///run/meshlib/workload.sock --token-file ratings.token
    """
    path = Path(socket.removeprefix("unix://").removeprefix("unix:")).absolute()
    asyncio.run(serve_fresh(_settings(token_file, instance, control_plane, root_cert), path, group))
    return 0


def _settings(token_file: str, instance: str, control_plane: str, root_cert: str) -> Settings:
    return settings_from(
        {
            "MESHLIB_INSTANCE": instance,
            "MESHLIB_TOKEN_FILE": token_file,
            "MESHLIB_CONTROL_PLANE": control_plane,
            "MESHLIB_ROOT_CERT": root_cert,
        }
    )
