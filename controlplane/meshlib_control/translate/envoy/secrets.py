"""Secrets (SDS) that are none: the certificates that prove the mesh. There is no key in any World."""

from __future__ import annotations

from meshlib.config.messages import message
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import resource

ROOTS = "ROOTCA"


def secret(world: World, node: Node, name: str) -> Resource | None:
    """The roots under Istio's name; None for everything else, `default` above all."""
    if name != ROOTS or node.kind != "envoy" or not world.roots:
        return None
    trusted = {"trusted_ca": {"inline_string": world.roots}}
    return resource(name, message("envoy.extensions.transport_sockets.tls.v3.Secret")(name=name, validation_context=trusted))
