"""Endpoints of clusters (EDS), and with which of them mutual TLS is spoken."""

from __future__ import annotations

from meshlib.config.messages import message
from meshlib.config.model import PeerMode
from meshlib_control.model import Instance, Node, Resource, World
from meshlib_control.translate.build import resource
from meshlib_control.translate.cluster import Security, target
from meshlib_control.translate.endpoint_group import load_assignment
from meshlib_control.translate.peer_authentication import PeerRule, peer_rule


def assignment(world: World, node: Node, name: str) -> Resource | None:
    """The endpoints of a cluster, maybe none; None if there is no such cluster or it does not take its endpoints from here."""
    found = target(world, node, name)
    if found is None or found.discovery != "EDS":
        return None
    rules = [_rule(world, instance) for instance in found.instances]
    endpoints = [
        (instance, _secured(found.security, instance, rule)) for instance, rule in zip(found.instances, rules, strict=True)
    ]
    body = message("envoy.config.endpoint.v3.ClusterLoadAssignment")(**load_assignment(name, endpoints))
    decisive = (rule.item.key for rule in rules if rule.item)
    return resource(name, body, (*found.sources, *decisive))


def _rule(world: World, instance: Instance) -> PeerRule:
    return peer_rule(world, instance.namespace, instance.labels, instance.port)


def _secured(security: Security, instance: Instance, rule: PeerRule) -> bool:
    if security is Security.MUTUAL:
        return True
    # Istio: mtls_checker. The server's own word decides, endpoint by endpoint.
    return security is Security.AUTOMATIC and instance.in_mesh and rule.mode is not PeerMode.DISABLE
