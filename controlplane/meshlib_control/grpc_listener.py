"""The TLS port of xDS and CA: a grpc.aio server whose certificate is renewed while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import grpc

from .ca import CertificateAuthority, ServerCertificate
from .errors import CannotStart
from .listening import Address, cannot_listen, probe
from .xds.server import SERVER_OPTIONS

OPTION = "--xds-address"


class RenewedCertificate:
    """The server's certificate, made anew once half of its life is over.

    gRPC asks before each handshake, in a thread of its own.
    """

    def __init__(self, authority: CertificateAuthority, hosts: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._clock = clock
        self._lock = threading.Lock()
        self._shown = authority.server_certificate(self._hosts, clock())

    @property
    def current(self) -> ServerCertificate:
        """What new connections get now."""
        with self._lock:
            now = self._clock()
            if now >= self._shown.not_before + (self._shown.not_after - self._shown.not_before) / 2:
                self._shown = self._authority.server_certificate(self._hosts, now)
            return self._shown


def server_credentials(certificate: RenewedCertificate) -> grpc.ServerCredentials:
    """gRPC credentials that follow a renewed certificate; clients are asked for tokens, not for certificates."""
    shown = certificate.current

    def renewed() -> Any:
        nonlocal shown
        newest = certificate.current
        if newest is shown:
            return None  # gRPC keeps what it has
        shown = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(_configuration(shown), renewed, False)


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
    try:
        port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:  # its way to say that bind failed
        raise cannot_listen(address, OPTION, OSError(str(error))) from error
    if port == 0:
        raise CannotStart(f"cannot listen on {address}", f"choose another address: {OPTION} HOST:PORT")
    return server, Address(address.host, port)


def _configuration(certificate: ServerCertificate) -> Any:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)])
