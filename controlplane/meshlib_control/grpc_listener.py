"""The TLS ports of xDS and CA: a grpc.aio server whose certificate is renewed while it runs.

Two ports, one service. The first asks nobody for a certificate: callers show tokens. The second demands a certificate of our
root, for clients that can send no token (grpcio's own xDS client). One port cannot do both: grpcio's server either demands
client certificates or does not look at them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import grpc

from .ca import CertificateAuthority, ServerCertificate
from .errors import CannotStart
from .listening import Address, cannot_listen, parse_address, probe
from .xds.server import SERVER_OPTIONS

OPTION = "--xds-address"
CERTIFICATE_OPTION = "--xds-mtls-address"

_log = logging.getLogger(__name__)


class RenewedCertificate:
    """The server's certificate, made anew once half of its life is over, or when another authority is in force.

    gRPC asks before each handshake, in a thread of its own.

    Args:
        authority: gives the one in force.
    """

    def __init__(
        self, authority: Callable[[], CertificateAuthority], hosts: Sequence[str], clock: Callable[[], datetime]
    ) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._clock = clock
        self._lock = threading.Lock()
        self._issuer = authority()
        self._shown = self._issuer.server_certificate(self._hosts, clock())

    @property
    def current(self) -> ServerCertificate:
        """What new connections get now."""
        with self._lock:
            now, authority = self._clock(), self._authority()
            half = self._shown.not_before + (self._shown.not_after - self._shown.not_before) / 2
            if now >= half or authority is not self._issuer:
                self._issuer, self._shown = authority, authority.server_certificate(self._hosts, now)
            return self._shown


def server_credentials(
    certificate: RenewedCertificate, client_roots: Callable[[], bytes] | None = None
) -> grpc.ServerCredentials:
    """gRPC credentials that follow a renewed certificate.

    Args:
        client_roots: gives PEM; every client must show a certificate of one of these. None: no client is asked for one.
    """

    def newest() -> tuple[ServerCertificate, bytes | None]:
        return certificate.current, client_roots() if client_roots is not None else None

    shown = newest()

    def renewed() -> Any:
        nonlocal shown
        before, shown = shown, newest()
        # The certificate by identity: a new one is a new object. None: gRPC keeps what it has.
        return None if shown[0] is before[0] and shown[1] == before[1] else _configuration(*shown)

    return grpc.dynamic_ssl_server_credentials(_configuration(*shown), renewed, client_roots is not None)


def listen_grpc(
    address: Address, credentials: grpc.ServerCredentials, handlers: Sequence[grpc.GenericRpcHandler]
) -> tuple[Any, Address]:
    """A `grpc.aio` server, not started yet, and the address it got (port 0 becomes the real one).

    Raises:
        CannotStart: the port is taken; says by whom and what to do.
    """
    probe(address, OPTION)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers))
    return server, _bound(server, address, credentials, OPTION)


def listen_for_certificates(
    server: Any, wish: str, beside: Address, wanted: int, credentials: grpc.ServerCredentials
) -> Address | None:
    """One more port of a server: for clients that prove themselves by certificate. Returns where it is.

    Args:
        wish: `HOST:PORT`; empty: the port after the first one's, and none at all if that is taken.
        beside: the address that the server listens on already.
        wanted: the port that was asked for there; 0: any free one here as well.

    Raises:
        CannotStart: the wish cannot be granted; says why and what to do.
    """
    if wish:
        address = parse_address(wish, CERTIFICATE_OPTION)
        probe(address, CERTIFICATE_OPTION)
        return _bound(server, address, credentials, CERTIFICATE_OPTION)
    try:
        address = Address(beside.host, beside.port + 1 if 0 < wanted < 65535 else 0)
        probe(address, CERTIFICATE_OPTION)
        return _bound(server, address, credentials, CERTIFICATE_OPTION)
    except CannotStart as error:
        # Nobody asked for it, so it must not keep anybody from starting.
        _log.warning("no port for clients with certificates (grpcio's own xDS client): %s; %s", error.problem, error.advice)
        return None


def _bound(server: Any, address: Address, credentials: grpc.ServerCredentials, option: str) -> Address:
    try:
        port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:  # its way to say that bind failed
        raise cannot_listen(address, option, OSError(str(error))) from error
    if port == 0:
        raise CannotStart(f"cannot listen on {address}", f"choose another address: {option} HOST:PORT")
    return Address(address.host, port)


def _configuration(certificate: ServerCertificate, client_roots: bytes | None) -> Any:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)], client_roots)
