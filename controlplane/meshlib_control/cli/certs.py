"""`meshlib cert keep`: a member's certificate in files, for programs that read nothing else. The other commands: `cert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .joining import first_certificate, keep_fresh, settings_from

app = typer.Typer(help="Certificates: in files, and as ports show them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Certificates: in files, and as ports show them."""


@app.command("keep")
def keep(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Gets cert-chain.pem, key.pem, root-cert.pem; others may not look.")
    ],
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")] = "",
    instance: Annotated[str, typer.Option("--instance", metavar="NAME", help="Whose it is, for `meshlib ps`.")] = "",
    control_plane: Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to ask.")] = "",
    root_cert: Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Get one, and do not stay to renew it.")] = False,
) -> int:
    """Get a certificate into a folder, and renew it there at half of its life until Ctrl-C.

    The token says whose it is. It is read again for each renewal, so that it may be replaced in its file.

    Example: meshlib cert keep /run/ratings --token-file ratings.token
    """
    from meshlib.runtime.certificate_files import CertificateFolder

    settings = settings_from(
        {
            "MESHLIB_INSTANCE": instance,
            "MESHLIB_TOKEN_FILE": token_file,
            "MESHLIB_CONTROL_PLANE": control_plane,
            "MESHLIB_ROOT_CERT": root_cert,
        }
    )
    keeper = first_certificate(settings, CertificateFolder(folder.absolute()))
    if not once:
        keep_fresh(keeper)
    return 0
