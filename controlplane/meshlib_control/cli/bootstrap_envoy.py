"""`meshlib bootstrap envoy`: a certificate in files, and a bootstrap with which an Envoy joins the mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import bootstrap_options as options
from .bootstrap_options import PORT, member, port_of, write_bootstrap
from .failure import USAGE, Failure
from .joining import first_certificate, keep_fresh, refuse_foreign_namespace, settings_from

if TYPE_CHECKING:
    from meshlib.runtime.certificate_files import CertificateKeeper
    from meshlib.runtime.envoy_bootstrap import EnvoyOptions
    from meshlib.runtime.settings import Settings


def envoy(
    certs: Annotated[
        Path, typer.Option("--certs", metavar="DIR", help="Gets key and certificate (0600) and stays watched by Envoy.")
    ],
    service: Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The service behind this Envoy.")] = "",
    port: options.Port = 0,
    target_port: Annotated[
        int, typer.Option("--target-port", **PORT, help="The port of this instance that others connect to; as --port.")
    ] = 0,
    local_port: Annotated[
        int, typer.Option("--local-port", **PORT, help="Where the program listens on loopback; as --target-port.")
    ] = 0,
    protocol: Annotated[str, typer.Option("--protocol", help="What the service speaks: http, http2, grpc, tcp.")] = "http",
    namespace: options.Namespace = "",
    labels: options.Labels = None,
    instance: options.Instance = "",
    address: options.Address = "",
    explicit_ports: Annotated[
        list[str] | None,
        typer.Option(
            "--explicit-port",
            metavar="PORT[=LOCAL]",
            help="Nothing is redirected: listen on loopback for a service port; repeatable.",
        ),
    ] = None,
    http_proxy_port: Annotated[
        int, typer.Option("--http-proxy-port", **PORT, help="Nothing is redirected: one port of loopback for all services.")
    ] = 0,
    admin_port: Annotated[int, typer.Option("--admin-port", **PORT, help="Envoy's administration, on loopback.")] = 15000,
    delta: Annotated[bool, typer.Option("--delta/--sotw", help="Incremental ADS, or state of the world.")] = True,
    token_file: options.TokenFile = "",
    control_plane: options.ControlPlane = "",
    control_plane_mtls: options.ControlPlaneMtls = "",
    root_cert: options.RootCert = "",
    write_to: options.WriteTo = "",
    keep: options.Keep = False,
) -> int:
    """Write a bootstrap for Envoy. Its private key is made here and never leaves DIR; nothing in the bootstrap is secret.

    The certificate in DIR ends after a day: say --keep, or run `meshlib cert keep DIR` beside Envoy.

    Example: meshlib bootstrap envoy -s ratings -p 9080 --certs certs --write envoy.json && envoy -c envoy.json
    """
    from meshlib.runtime.envoy_bootstrap import EnvoyOptions

    transparent = not (explicit_ports or http_proxy_port)
    how = EnvoyOptions(
        admin=f"127.0.0.1:{admin_port}",
        delta=delta,
        transparent=transparent,
        explicit_ports=None if transparent else dict(map(_explicit, explicit_ports or ())),
        http_proxy_port=http_proxy_port or None,
        local_port=local_port,
    )
    target = port_of(service, port, target_port)
    _refuse_contradictions(service, target, how)
    settings = settings_from(
        member(
            port,
            labels,
            service=service,
            protocol=protocol,
            namespace=namespace,
            instance=instance or (f"{service}-envoy" if service else "envoy"),
            address=address,
            token_file=token_file,
            control_plane=control_plane,
            control_plane_mtls=control_plane_mtls,
            root_cert=root_cert,
        )
    )
    keeper = _write(settings, certs.absolute(), how, target, write_to)
    if keep:
        keep_fresh(keeper)
    return 0


def _refuse_contradictions(service: str, target_port: int, how: EnvoyOptions) -> None:
    if how.transparent and how.local_port:
        raise Failure(
            "--local-port is for an Envoy that nothing is redirected to: otherwise the program has the port that others call",
            "leave it out, or say --explicit-port or --http-proxy-port",
            USAGE,
        )
    if not how.transparent and service and how.local_port in (0, target_port):
        raise Failure(
            f"Envoy and the program cannot both listen at port {target_port}: nothing is redirected here",
            f"--target-port {target_port} --local-port {target_port + 1}  (and let the program listen there)",
            USAGE,
        )


def _explicit(text: str) -> tuple[int, int]:
    port, equals, local = text.partition("=")
    if not _is_port(port) or (equals and not _is_port(local) and local != "0"):
        raise Failure(f"--explicit-port {text!r} is none", "--explicit-port 9080  or  --explicit-port 9080=19080", USAGE)
    return int(port), int(local) if equals else int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def _write(settings: Settings, certs: Path, how: EnvoyOptions, target_port: int, write_to: str) -> CertificateKeeper:
    """Certificate first: without one there is no use for a bootstrap."""
    from meshlib.runtime.addresses import own_address
    from meshlib.runtime.certificate_files import CertificateFolder
    from meshlib.runtime.envoy_bootstrap import bootstrap, write_identity_file

    folder = CertificateFolder(certs)
    keeper = first_certificate(settings, folder)
    refuse_foreign_namespace(settings, keeper)
    write_identity_file(folder)
    text = json.dumps(bootstrap(settings, own_address(settings), folder, how, target_port), indent=2)
    # Listeners that a policy has changed keep their open connections for as long as they drain.
    write_bootstrap(text, write_to, f"envoy -c {write_to} --drain-time-s 45")
    return keeper
