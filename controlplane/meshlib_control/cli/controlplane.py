"""`meshlib controlplane`: run the control plane in the foreground."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from meshlib_control.current import home_folder
from meshlib_control.errors import CannotStart, WrongOption

from .failure import FAILURE, USAGE, Failure
from .output import say


def controlplane(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keys and objects; $MESHLIB_HOME/controlplane if not given.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="DIR", help="A folder of YAML that is watched.")] = None,
    xds_address: Annotated[
        str, typer.Option("--xds-address", metavar="HOST:PORT", help="Where services join (TLS). Port 0: any free one.")
    ] = "127.0.0.1:15012",
    xds_mtls_address: Annotated[
        str,
        typer.Option(
            "--xds-mtls-address",
            metavar="HOST:PORT",
            help="Where clients join that show a certificate instead of a token; the port after the xDS port if not given.",
        ),
    ] = "",
    api_address: Annotated[
        str, typer.Option("--api-address", metavar="HOST:PORT", help="Where the commands ask. TLS if not on loopback.")
    ] = "127.0.0.1:15014",
    server_names: Annotated[
        list[str] | None, typer.Option("--server-name", metavar="HOST", help="A further name of this machine; repeatable.")
    ] = None,
    trust_bundle: Annotated[
        Path | None,
        typer.Option("--trust-bundle", metavar="FILE", help="Roots to trust as our own, PEM: those of SPIRE, for example."),
    ] = None,
    cacerts: Annotated[
        Path | None,
        typer.Option(
            "--cacerts", metavar="DIR", help="An authority of yours: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem."
        ),
    ] = None,
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="First part of every SPIFFE id.")] = "cluster.local",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell about every connection and certificate.")] = False,
) -> int:
    """Run the control plane until Ctrl-C.

    Example: meshlib controlplane --config mesh/
    """
    if config is not None and not config.is_dir():
        raise Failure(f"--config {config} is no folder", f"mkdir -p {config}", USAGE)
    from meshlib_control.serve import ControlPlaneOptions, serve

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    home = home_folder(os.environ)
    options = ControlPlaneOptions(
        home=home,
        data=data or home / "controlplane",
        config=config,
        xds_address=xds_address,
        api_address=api_address,
        xds_mtls_address=xds_mtls_address,
        server_names=tuple(server_names or ()),
        trust_bundle=trust_bundle,
        cacerts=cacerts,
        trust_domain=trust_domain,
    )
    try:
        asyncio.run(serve(options, say))
    except CannotStart as error:
        code = USAGE if isinstance(error, WrongOption) else FAILURE
        raise Failure(error.problem, error.advice, code) from error
    return 0
