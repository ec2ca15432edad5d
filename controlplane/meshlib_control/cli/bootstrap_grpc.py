"""`meshlib bootstrap grpc`: a certificate in files, and a bootstrap for gRPC's own xDS client, in any language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import bootstrap_options as options
from .bootstrap_options import PORT, member, port_of, write_bootstrap
from .joining import first_certificate, keep_fresh, refuse_foreign_namespace, settings_from


def grpc(
    certs: Annotated[
        Path, typer.Option("--certs", metavar="DIR", help="Gets key, certificate and root; others may not look.")
    ],
    service: Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The service that the program serves.")] = "",
    port: options.Port = 0,
    target_port: Annotated[
        int, typer.Option("--target-port", **PORT, help="Where the program's xDS-enabled server listens; as --port.")
    ] = 0,
    namespace: options.Namespace = "",
    labels: options.Labels = None,
    instance: options.Instance = "",
    address: options.Address = "",
    token_file: options.TokenFile = "",
    control_plane: options.ControlPlane = "",
    control_plane_mtls: options.ControlPlaneMtls = "",
    root_cert: options.RootCert = "",
    write_to: options.WriteTo = "",
    keep: options.Keep = False,
) -> int:
    """Write a bootstrap for gRPC's own xDS client. Nothing in it is secret, nothing in it is specific to a language.

    The certificate in DIR ends after a day: say --keep, or run `meshlib cert keep DIR` beside the program.

    Example: meshlib bootstrap grpc -s ratings -p 9080 --certs certs --write grpc.json; GRPC_XDS_BOOTSTRAP=grpc.json ./ratings
    """
    target = port_of(service, port, target_port)
    settings = settings_from(
        member(
            port,
            labels,
            service=service,
            namespace=namespace,
            instance=instance or (f"{service}-grpc" if service else "grpc"),
            address=address,
            token_file=token_file,
            control_plane=control_plane,
            control_plane_mtls=control_plane_mtls,
            root_cert=root_cert,
        )
    )
    from meshlib.runtime.addresses import own_address
    from meshlib.runtime.certificate_files import CertificateFolder
    from meshlib.runtime.grpc_bootstrap import bootstrap

    folder = CertificateFolder(certs.absolute())
    keeper = first_certificate(settings, folder)
    refuse_foreign_namespace(settings, keeper)
    text = json.dumps(bootstrap(settings, own_address(settings), folder, target), indent=2)
    write_bootstrap(text, write_to, f"GRPC_XDS_BOOTSTRAP={write_to} and the program")
    if keep:
        keep_fresh(keeper)
    return 0
