"""Endpoints of clusters (EDS), and with which of them mutual TLS is spoken."""

from __future__ import annotations

from meshlib.config.messages import message
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import resource
from meshlib_control.translate.cluster import judged_endpoints, target
from meshlib_control.translate.endpoint_group import load_assignment


def assignment(world: World, node: Node, name: str) -> Resource | None:
    """The endpoints of a cluster, maybe none; None if there is no such cluster or it does not take its endpoints from here."""
    found = target(world, node, name)
    if found is None or found.discovery != "EDS":
        return None
    judged = judged_endpoints(world, found)
    described = node.kind != "grpc"  # it reads no metadata, and takes no message above 4 MiB
    endpoints = [(endpoint.instance, endpoint.secured) for endpoint in judged]
    body = message("envoy.config.endpoint.v3.ClusterLoadAssignment")(**load_assignment(name, endpoints, described=described))
    decisive = (endpoint.rule.item.key for endpoint in judged if endpoint.rule.item)
    return resource(name, body, (*found.sources, *decisive))
