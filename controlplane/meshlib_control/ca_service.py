"""Istio's CA over gRPC: `/istio.v1.auth.IstioCertificateService/CreateCertificate`.

Read in order: the credential is checked, then the request, then the certificate is issued in the credential's name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import grpc

from meshlib.config.messages import message

from .authn import Authenticator, Caller
from .ca import LONGEST_LIFETIME, CertificateAuthority, RequestRejected, end_of
from .issued import IssuedCertificates

SERVICE = "istio.v1.auth.IstioCertificateService"

_log = logging.getLogger(__name__)


def certificate_handler(
    authority: CertificateAuthority,
    authenticator: Authenticator,
    clock: Callable[[], datetime],
    issued: IssuedCertificates | None = None,
) -> grpc.GenericRpcHandler:
    """The service as a handler for a `grpc.aio` server.

    Args:
        clock: the time of day, UTC.
        issued: is told of each certificate.
    """
    issued = issued or IssuedCertificates()
    request_type = message("istio.v1.auth.IstioCertificateRequest")
    response_type = message("istio.v1.auth.IstioCertificateResponse")

    async def create_certificate(request: Any, context: Any) -> Any:
        caller = await authenticator.grpc_caller(context)
        try:
            now = clock()
            chain = _issue(authority, caller, request, now)
        except RequestRejected as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise  # never reached: abort raises
        issued.note(caller.spiffe_id, _instance(request), end_of(chain[0]), now)
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
