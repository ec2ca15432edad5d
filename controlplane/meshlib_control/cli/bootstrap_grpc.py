"""`meshlib bootstrap grpc`: a certificate in files, and a bootstrap for gRPC's own xDS client, in any language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .failure import USAGE, Failure
from .joining import first_certificate, keep_fresh, settings_from
from .output import say

_PORT = {"min": 0, "max": 65535}


def grpc(
    certs: Annotated[
        Path, typer.Option("--certs", metavar="DIR", help="Gets key, certificate and root; others may not look.")
    ],
    service: Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The service that the program serves.")] = "",
    port: Annotated[int, typer.Option("--port", "-p", **_PORT, help="The service's port, as others call it.")] = 0,
    target_port: Annotated[
        int, typer.Option("--target-port", **_PORT, help="Where the program's xDS-enabled server listens; as --port.")
    ] = 0,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The program's namespace.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label, as in version=v2; repeatable.")
    ] = None,
    instance: Annotated[str, typer.Option("--instance", metavar="NAME", help="This instance's name.")] = "",
    address: Annotated[str, typer.Option("--address", metavar="IP", help="Where others reach this instance.")] = "",
    token_file: Annotated[str, typer.Option("--token-file", metavar="FILE", help="Holds a join token.")] = "",
    control_plane: Annotated[str, typer.Option("--control-plane", metavar="HOST:PORT", help="Where to join.")] = "",
    control_plane_mtls: Annotated[
        str,
        typer.Option(
            "--control-plane-mtls",
            metavar="HOST:PORT",
            help="Its port for clients with certificates; the next one if not given.",
        ),
    ] = "",
    root_cert: Annotated[str, typer.Option("--root-cert", metavar="FILE", help="The root certificate, PEM.")] = "",
    write_to: Annotated[str, typer.Option("--write", metavar="FILE", help="Where to write it, instead of stdout.")] = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Stay, and renew the certificate at half of its life, until Ctrl-C.")
    ] = False,
) -> int:
    """Write a bootstrap for gRPC's own xDS client. Nothing in it is secret, nothing in it is specific to a language.

    The certificate in DIR ends after a day: say --keep, or run `meshlib certs keep DIR` beside the program.

    Example: meshlib bootstrap grpc -s ratings -p 9080 --certs certs --write grpc.json; GRPC_XDS_BOOTSTRAP=grpc.json ./ratings
    """
    if service and not (target_port or port):
        raise Failure("at which port do others call the service?", f"--service {service} --port 9080", USAGE)
    settings = settings_from(
        {
            "MESHLIB_SERVICE": service,
            "MESHLIB_PORT": str(port or ""),
            "MESHLIB_NAMESPACE": namespace,
            "MESHLIB_LABELS": ",".join(labels or []),
            "MESHLIB_INSTANCE": instance or (f"{service}-grpc" if service else "grpc"),
            "MESHLIB_ADDRESS": address,
            "MESHLIB_TOKEN_FILE": token_file,
            "MESHLIB_CONTROL_PLANE": control_plane,
            "MESHLIB_CONTROL_PLANE_MTLS": control_plane_mtls,
            "MESHLIB_ROOT_CERT": root_cert,
        }
    )
    from meshlib.runtime.addresses import own_address
    from meshlib.runtime.certificate_files import CertificateFolder
    from meshlib.runtime.grpc_bootstrap import bootstrap

    folder = CertificateFolder(certs.absolute())
    keeper = first_certificate(settings, folder)
    content = bootstrap(settings, own_address(settings), folder, target_port or port)
    _write(json.dumps(content, indent=2), write_to)
    if keep:
        keep_fresh(keeper)
    return 0


def _write(text: str, path: str) -> None:
    if not path:
        print(text)
        return
    try:
        Path(path).write_text(text + "\n")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}", "--write FILE in a folder that exists", USAGE) from error
    say(f"Next: GRPC_XDS_BOOTSTRAP={path} and the program")
