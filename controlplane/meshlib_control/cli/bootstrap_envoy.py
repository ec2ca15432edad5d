"""`meshlib bootstrap envoy`: a certificate in files, and a bootstrap with which an Envoy joins the mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .failure import USAGE, Failure
from .joining import first_certificate, keep_fresh, settings_from
from .output import say

if TYPE_CHECKING:
    from meshlib.runtime.certificate_files import CertificateKeeper
    from meshlib.runtime.envoy_bootstrap import EnvoyOptions
    from meshlib.runtime.settings import Settings

_PORT = {"min": 0, "max": 65535}


def envoy(
    certs: Annotated[
        Path, typer.Option("--certs", metavar="DIR", help="Gets key and certificate (0600) and stays watched by Envoy.")
    ],
    service: Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The service behind this Envoy.")] = "",
    port: Annotated[int, typer.Option("--port", "-p", **_PORT, help="The service's port, as others call it.")] = 0,
    target_port: Annotated[
        int, typer.Option("--target-port", **_PORT, help="The port of this instance that others connect to; as --port.")
    ] = 0,
    local_port: Annotated[
        int, typer.Option("--local-port", **_PORT, help="Where the program listens on loopback; as --target-port.")
    ] = 0,
    protocol: Annotated[str, typer.Option("--protocol", help="What the service speaks: http, http2, grpc, tcp.")] = "http",
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The service's namespace.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label, as in version=v2; repeatable.")
    ] = None,
    instance: Annotated[str, typer.Option("--instance", metavar="NAME", help="This instance's name.")] = "",
    address: Annotated[str, typer.Option("--address", metavar="IP", help="Where others reach this instance.")] = "",
    explicit_ports: Annotated[
        list[str] | None,
        typer.Option(
            "--explicit-port",
            metavar="PORT[=LOCAL]",
            help="Nothing is redirected: listen on loopback for a service port; repeatable.",
        ),
    ] = None,
    http_proxy_port: Annotated[
        int, typer.Option("--http-proxy-port", **_PORT, help="Nothing is redirected: one port of loopback for all services.")
    ] = 0,
    admin_port: Annotated[int, typer.Option("--admin-port", **_PORT, help="Envoy's administration, on loopback.")] = 15000,
    delta: Annotated[bool, typer.Option("--delta/--sotw", help="Incremental ADS, or state of the world.")] = True,
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
    """Write a bootstrap for Envoy. Its private key is made here and never leaves DIR; nothing in the bootstrap is secret.

    The certificate in DIR ends after a day: say --keep, or run `meshlib certs keep DIR` beside Envoy.

    Example: meshlib bootstrap envoy -s ratings -p 9080 --certs certs --write envoy.json && envoy -c envoy.json
    """
    from meshlib.runtime.envoy_bootstrap import EnvoyOptions

    transparent = not (explicit_ports or http_proxy_port)
    options = EnvoyOptions(
        admin=f"127.0.0.1:{admin_port}",
        delta=delta,
        transparent=transparent,
        explicit_ports=None if transparent else dict(map(_explicit, explicit_ports or ())),
        http_proxy_port=http_proxy_port or None,
        local_port=local_port,
    )
    called_at = (target_port or port) if service else 0
    _refuse_contradictions(service, called_at, options)
    settings = settings_from(
        {
            "MESHLIB_SERVICE": service,
            "MESHLIB_PORT": str(port or ""),
            "MESHLIB_PROTOCOL": protocol,
            "MESHLIB_NAMESPACE": namespace,
            "MESHLIB_LABELS": ",".join(labels or []),
            "MESHLIB_INSTANCE": instance or (f"{service}-envoy" if service else "envoy"),
            "MESHLIB_ADDRESS": address,
            "MESHLIB_TOKEN_FILE": token_file,
            "MESHLIB_CONTROL_PLANE": control_plane,
            "MESHLIB_CONTROL_PLANE_MTLS": control_plane_mtls,
            "MESHLIB_ROOT_CERT": root_cert,
        }
    )
    keeper = _write(settings, certs.absolute(), options, called_at, write_to)
    if keep:
        keep_fresh(keeper)
    return 0


def _refuse_contradictions(service: str, target_port: int, options: EnvoyOptions) -> None:
    if service and not target_port:
        raise Failure("at which port do others call the service?", f"--service {service} --port 9080", USAGE)
    if options.transparent and options.local_port:
        raise Failure(
            "--local-port is for an Envoy that nothing is redirected to: otherwise the program has the port that others call",
            "leave it out, or say --explicit-port or --http-proxy-port",
            USAGE,
        )
    if not options.transparent and service and options.local_port in (0, target_port):
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


def _write(settings: Settings, certs: Path, options: EnvoyOptions, target_port: int, write_to: str) -> CertificateKeeper:
    """Certificate first: without one there is no use for a bootstrap."""
    from meshlib.runtime.addresses import own_address
    from meshlib.runtime.certificate_files import CertificateFolder
    from meshlib.runtime.envoy_bootstrap import bootstrap, write_identity_file

    folder = CertificateFolder(certs)
    keeper = first_certificate(settings, folder)
    write_identity_file(folder)
    text = json.dumps(bootstrap(settings, own_address(settings), folder, options, target_port), indent=2)
    if not write_to:
        print(text)
        return keeper
    try:
        Path(write_to).write_text(text + "\n")
    except OSError as error:
        raise Failure(f"cannot write {write_to}: {error.strerror}", "--write FILE", USAGE) from error
    # Listeners that a policy has changed keep their open connections for as long as they drain.
    say(f"Next: envoy -c {write_to} --drain-time-s 45")
    return keeper
