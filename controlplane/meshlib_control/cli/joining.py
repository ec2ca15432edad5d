"""Who joins, and where: what the options of a command say, then the environment, then the control plane of this user."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from meshlib.errors import CredentialError, MeshError, SettingsError
from meshlib_control.current import home_folder, read_current

from .failure import FAILURE, UNREACHABLE, USAGE, Failure
from .output import say

if TYPE_CHECKING:
    from meshlib.runtime.certificate_files import CertificateKeeper, CertificatePlace
    from meshlib.runtime.settings import Settings

PATIENCE = 10.0  # seconds for the first certificate

_TOKEN = "meshlib token create --service-account NAME > FILE, then --token-file FILE"  # noqa: S105  advice, not a secret


def settings_from(given: Mapping[str, str]) -> Settings:
    """The settings of a member.

    Args:
        given: `MESHLIB_*` as the options say; empty ones are not given.

    Raises:
        Failure: one of them is wrong.
    """
    from meshlib.runtime.settings import Settings

    environ = {**os.environ, **{name: value for name, value in given.items() if value}}
    try:
        current = None if "MESHLIB_CONTROL_PLANE" in environ else read_current(home_folder(environ))
        known = {
            "MESHLIB_CONTROL_PLANE": current.xds if current else "",
            "MESHLIB_CONTROL_PLANE_MTLS": current.xds_mtls if current else "",
            "MESHLIB_ROOT_CERT": current.root_cert if current else "",
        }
        return Settings.from_env({**{name: value for name, value in known.items() if value}, **environ})
    except SettingsError as error:
        raise Failure(str(error), "the command's --help", USAGE) from error


def first_certificate(settings: Settings, place: CertificatePlace) -> CertificateKeeper:
    """Gets a certificate to a place; the answer can keep it fresh.

    Raises:
        Failure: the control plane cannot be reached or refuses the token, or the place cannot be used.
    """
    from meshlib.errors import ControlPlaneError
    from meshlib.runtime.certificate_files import CertificateKeeper

    keeper = CertificateKeeper(settings, place)
    try:
        keeper.obtain(PATIENCE)
    except CredentialError as error:
        raise Failure(str(error), _TOKEN, FAILURE) from error
    except SettingsError as error:
        raise Failure(str(error), "another folder or file", USAGE) from error
    except MeshError as error:
        code = UNREACHABLE if isinstance(error, ControlPlaneError) else FAILURE
        raise Failure(str(error), "meshlib controlplane, or --control-plane HOST:PORT and --root-cert FILE", code) from error
    say(f"{place.path}: {keeper.spiffe_id}")
    return keeper


def refuse_foreign_namespace(settings: Settings, keeper: CertificateKeeper) -> None:
    """The control plane takes nobody in another namespace than the certificate's. Raises Failure."""
    from meshlib.identity.spiffe import SpiffeId

    owned = SpiffeId.parse(str(keeper.spiffe_id)).namespace
    if owned != settings.namespace:
        raise Failure(f"the token is of namespace {owned}, not {settings.namespace}", f"--namespace {owned}", USAGE)


def keep_fresh(keeper: CertificateKeeper) -> None:
    """Renews a certificate in its folder until SIGINT or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    say(f"Keeping the certificate in {keeper.place.path} fresh until Ctrl-C.")
    keeper.run(stopped)


async def serve_fresh(settings: Settings, path: Path, group: str) -> None:
    """Serves a certificate by the SPIFFE Workload API, and renews it, until SIGINT or SIGTERM.

    Args:
        path: of the socket; absolute.
        group: whose members may have it, too; empty: nobody's.

    Raises:
        Failure: as `first_certificate`, or the socket cannot be made.
    """
    from meshlib.runtime.workload_api_server import PublishedCertificate, WorkloadApiServer

    loop, stopped, server = asyncio.get_running_loop(), threading.Event(), WorkloadApiServer()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    keeper = await asyncio.to_thread(first_certificate, settings, PublishedCertificate(path, server, loop))
    try:
        async with server.serving(path, group):
            say(f"Serving it by the Workload API until Ctrl-C. Programs need: SPIFFE_ENDPOINT_SOCKET=unix://{path}")
            await asyncio.to_thread(keeper.run, stopped)
    except SettingsError as error:
        raise Failure(str(error), "another socket or group", USAGE) from error
