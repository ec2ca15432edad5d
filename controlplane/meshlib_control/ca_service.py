"""Istio's CA over gRPC: `/istio.v1.auth.IstioCertificateService/CreateCertificate`.

Read in order: the credential is checked, then the request, then the certificate is issued in the credential's name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import grpc

from meshlib.config.messages import message

from .authn import Authenticator, Caller
from .ca import LONGEST_LIFETIME, CertificateAuthority, end_of
from .ca_request import RequestRejected

SERVICE = "istio.v1.auth.IstioCertificateService"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What somebody was given.

    Args:
        instance: the process's name as it says itself; empty if it does not say.
        chain: PEM, as `CertificateAuthority.issue` answers.
        issued: when.
    """

    spiffe_id: str
    instance: str
    chain: Sequence[str]
    issued: datetime

    @property
    def ends(self) -> datetime:
        """When it ends."""
        return end_of(self.chain[0])


Granted = Callable[[Certificate], None]


def certificate_handler(
    authority: Callable[[], CertificateAuthority],
    authenticator: Authenticator,
    clock: Callable[[], datetime],
    granted: Granted = lambda *_: None,
) -> grpc.GenericRpcHandler:
    """The service as a handler for a `grpc.aio` server.

    Args:
        authority: gives the one in force.
        clock: the time of day, UTC.
        granted: is told of each certificate before it is given out.
    """
    request_type = message("istio.v1.auth.IstioCertificateRequest")
    response_type = message("istio.v1.auth.IstioCertificateResponse")

    async def create_certificate(request: Any, context: Any) -> Any:
        caller = await authenticator.grpc_caller(context, joining=True)
        try:
            now = clock()
            chain = _issue(authority(), caller, request, now)
        except RequestRejected as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise  # never reached: abort raises
        granted(Certificate(caller.spiffe_id, _instance(request), chain, now))
        _log.info("certificate for %s", caller.spiffe_id)
        return response_type(cert_chain=chain)

    method = grpc.unary_unary_rpc_method_handler(
        create_certificate, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})


def _issue(authority: CertificateAuthority, caller: Caller, request: Any, now: datetime) -> list[str]:
    # The field is an int64: bound it before it becomes a timedelta, which would overflow.
    seconds = max(0, min(request.validity_duration, int(LONGEST_LIFETIME.total_seconds())))
    return authority.issue(request.csr, caller.spiffe_id, timedelta(seconds=seconds), now)


def _instance(request: Any) -> str:
    # Istio's clients send facts about themselves in this Struct too (ClusterID); they decide nothing.
    return str(request.metadata.fields["INSTANCE"].string_value) if "INSTANCE" in request.metadata.fields else ""
