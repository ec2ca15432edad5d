"""The roots for those who keep them in files, by Envoy's unary API for secrets:
`/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets` with the one name ROOTCA.

A program that reads certificates from files has nobody on an xDS stream who would hear of new roots, and a certificate of a
day is renewed after half a day. So its keeper asks here now and then, and says in `version_info` which roots are in the files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from meshlib.config.messages import message, pack, type_url

from .authn import Authenticator
from .translate.envoy.secrets import ROOTS, validation
from .trust import KnownFiles, roots_version

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  a type's name
_DISCOVERY = "envoy.service.discovery.v3."


def trust_handler(roots: Callable[[], bytes], authenticator: Authenticator, files: KnownFiles) -> grpc.GenericRpcHandler:
    """The service as a handler for a `grpc.aio` server.

    Args:
        roots: PEM of whom to trust now.
        files: is told who has which.
    """
    request_type, response_type = message(_DISCOVERY + "DiscoveryRequest"), message(_DISCOVERY + "DiscoveryResponse")

    async def fetch(request: Any, context: Any) -> Any:
        caller = await authenticator.grpc_caller(context)
        if list(request.resource_names) != [ROOTS]:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"the only secret here is {ROOTS}; keys are made where they are used"
            )
        if request.version_info:
            files.note(caller.spiffe_id, request.node.id, request.version_info)
        pem = roots()
        secret = message(_SECRET)(name=ROOTS, validation_context=validation(pem.decode(), ""))
        return response_type(version_info=roots_version(pem), type_url=type_url(_SECRET), resources=[pack(secret)])

    method = grpc.unary_unary_rpc_method_handler(
        fetch, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"FetchSecrets": method})
