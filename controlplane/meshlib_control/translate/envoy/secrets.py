"""Secrets (SDS) that are none: the certificates that prove the mesh. There is no key in any World.

Followed by Envoy and by the library. grpcio rejects SDS; what it trusts is in files.
"""

from __future__ import annotations

from typing import Any

from meshlib.config.messages import message
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import resource

ROOTS = "ROOTCA"


def secret(world: World, node: Node, name: str) -> Resource | None:
    """The roots under Istio's name; None for everything else, `default` above all."""
    if name != ROOTS or node.kind == "grpc" or not world.roots:
        return None
    body = message("envoy.extensions.transport_sockets.tls.v3.Secret")(
        name=name, validation_context=validation(world.roots, world.revoked)
    )
    return resource(name, body)


def validation(roots: str, revoked: str) -> dict[str, Any]:
    """What a peer's certificate must lead to: a CertificateValidationContext.

    Args:
        roots: PEM.
        revoked: PEM of lists; empty: there are none. Only leaves are looked up: roots seldom give lists.
    """
    if not revoked:
        return {"trusted_ca": {"inline_string": roots}}
    return {
        "trusted_ca": {"inline_string": roots},
        "crl": {"inline_string": revoked},
        "only_verify_leaf_cert_crl": True,
    }
