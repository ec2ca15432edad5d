"""Engine 2: grpcio's own xDS client and xDS-enabled server, configured by our control plane.

The decisions are grpcio's, not meshlib's: docs/grpc.md says in a table what that changes. Ours is everything around it: the
bootstrap, the certificate in files (grpcio's core reads nothing else) and its renewal, and refusing what would fail open.

    channel = native.channel("reviews:9080")
    server = native.server("0.0.0.0:9080", ThreadPoolExecutor(10))

Both block for the first certificate, once in a process; `prepare` does that beforehand, in a thread if need be.
grpcio has no xDS-enabled server for asyncio: `grpc.aio` servers join with engine 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import grpc
import grpc.aio
import grpc.experimental

import meshlib
from meshlib.config.snapshot import listener_name
from meshlib.errors import SettingsError
from meshlib.runtime.settings import Settings

from . import _native_bootstrap, _native_csds
from ._native_guard import Guard, needed

FIRST_CERTIFICATE = 10.0
"""Seconds to wait for the first certificate."""

XDS_ACTIVE = -1
"""What `add_secure_port` of an xDS-enabled server returns: the port is bound once the control plane has described it."""

Options = Sequence[tuple[str, Any]]


class Member(Protocol):
    """What is used of a `meshlib.Mesh`."""

    @property
    def settings(self) -> Settings:
        """Who we are and where the control plane is."""


def prepare(mesh: Member | None = None, *, serves: int = 0, timeout: float = FIRST_CERTIFICATE) -> None:
    """Get the certificate and write the bootstrap that grpcio reads at its first use of xDS. Idempotent.

    A bootstrap that is set already (`GRPC_XDS_BOOTSTRAP`, `GRPC_XDS_BOOTSTRAP_CONFIG`) is taken as it is.

    Args:
        mesh: default: the process's.
        serves: the port of an xDS-enabled server that this process will have; 0: none.
        timeout: seconds to wait for the first certificate.

    Raises:
        SettingsError: this process has joined already, as somebody else or without that server.
        MeshError: why there is no certificate. This engine has no other way to the control plane.
    """
    settings = _settings(mesh)
    if settings.enabled:
        _native_bootstrap.join(settings, serves, timeout)


def channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    mesh: Member | None = None,
) -> grpc.Channel:
    """A channel to a destination of the mesh, driven by grpcio's own xDS client.

    Args:
        target: `reviews:9080`, as for engine 1. Without a port: 80.
        options, compression: of `grpc.secure_channel`.
        mesh: default: the process's.

    Raises:
        SettingsError: the target is an address or localhost, which no mesh knows.
        MeshError: there is no certificate.
    """
    found = _prepared_target(target, mesh)
    if found is None:
        return grpc.insecure_channel(target, options, compression)
    return grpc.secure_channel(found, _credentials(), options, compression)


def aio_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    *,
    mesh: Member | None = None,
) -> grpc.aio.Channel:
    """As `channel`, for asyncio. Blocks the event loop for the first certificate unless `prepare` was called before."""
    found = _prepared_target(target, mesh)
    if found is None:
        return grpc.aio.insecure_channel(target, options, compression, interceptors)
    return grpc.aio.secure_channel(found, _credentials(), options, compression, interceptors)


def server(
    address: str,
    thread_pool: Executor,
    *,
    mesh: Member | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
) -> grpc.Server:
    """A server with one port that the control plane describes: mutual TLS where it says STRICT, plain text elsewhere.

    The port is bound once the control plane has answered, after `start`. Its registration as an endpoint of the settings'
    service lives as long as the process. PERMISSIVE is plain text here: grpcio cannot serve both on one port.

    Args:
        address: `0.0.0.0:9080`; the port must be given, because the control plane is asked for it by name.
        mesh: default: the process's.
        thread_pool, handlers, interceptors, options, compression: of `grpc.server`. Its limit of concurrent calls is
            missing on purpose (`_native_guard`): the size of the thread pool is one.

    Raises:
        SettingsError: no port is given; or grpcio did not find the bootstrap, and would serve without any policy.
        MeshError: there is no certificate.
    """
    port = _port(address)
    settings = _settings(mesh)
    prepare(mesh, serves=port)
    guards = (Guard(),) if needed(grpc.__version__) else ()
    arguments = (thread_pool, handlers, (*guards, *(interceptors or ())), options, None, compression)
    if not settings.enabled:
        plain = grpc.server(*arguments)
        plain.add_insecure_port(address)
        return plain
    made = grpc.server(*arguments, xds=True)
    bound = made.add_secure_port(address, grpc.xds_server_credentials(grpc.insecure_server_credentials()))
    if bound != XDS_ACTIVE:
        # grpcio only logs that it has no bootstrap, and would serve plain text to everybody.
        made.stop(None)
        raise SettingsError(
            f"grpcio does not take its policy for {address} from the control plane: it found no usable bootstrap. "
            "Its log on stderr says why; look at the file that GRPC_XDS_BOOTSTRAP names"
        )
    return made


def add_csds_servicer(server: grpc.Server | grpc.aio.Server) -> None:
    """Let `meshlib pc ... --csds HOST:PORT`, and every other client of CSDS, ask what this process's xDS client holds.

    No secret is in the answers, but all routes and endpoints that this process knows: give it a server of its own, on
    loopback, as Envoy's administration.

    Args:
        server: not started yet, of either API.
    """
    _native_csds.add(server)


def _settings(mesh: Member | None) -> Settings:
    return (mesh or meshlib.default()).settings


def _prepared_target(target: str, mesh: Member | None) -> str | None:
    """The target for grpcio once its xDS client is ready; None if the mesh is switched off."""
    if not _settings(mesh).enabled:
        return None
    name = listener_name(target)
    if name is None:
        raise SettingsError(
            f"engine xds reaches what the control plane knows by name, as reviews:9080; {target!r} is an address. "
            "Use grpc's own channel for it, or the default engine"
        )
    prepare(mesh)
    return f"xds:///{name}"


def _credentials() -> grpc.ChannelCredentials:
    """TLS where the control plane's cluster asks for it, plain text elsewhere.

    An insecure channel would ignore the cluster's TLS; grpcio's default fallback would be TLS against public roots.
    """
    return grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())


def _port(address: str) -> int:
    port = address.rpartition(":")[2]
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(
            f"{address!r} names no port; write for example 0.0.0.0:9080. Port 0 is not possible for an xDS-enabled server: "
            "the control plane is asked for a listener of that name"
        )
    return int(port)
