"""Endpoints as xDS groups them: by locality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from meshlib.config.model import Locality
from meshlib_control.model import Instance
from meshlib_control.translate.build import struct
from meshlib_control.translate.tls import IN_MESH, TLS_MODE


def load_assignment(name: str, endpoints: Iterable[tuple[Instance, bool]], *, described: bool = True) -> dict[str, Any]:
    """A ClusterLoadAssignment.

    Args:
        endpoints: instances, each with whether mutual TLS is to be spoken with it.
        described: whether each endpoint carries metadata: who it is, and how to speak to it.
    """
    groups: dict[Locality, list[tuple[Instance, bool]]] = defaultdict(list)
    for instance, secured in endpoints:
        groups[instance.locality].append((instance, secured))
    return {"cluster_name": name, "endpoints": [_group(place, groups[place], described) for place in sorted(groups, key=str)]}


def _group(place: Locality, endpoints: list[tuple[Instance, bool]], described: bool) -> dict[str, Any]:
    return {
        "locality": {"region": place.region, "zone": place.zone, "sub_zone": place.sub_zone},
        # grpcio drops a locality without a weight.
        "load_balancing_weight": {"value": max(1, sum(instance.weight for instance, _ in endpoints))},
        "lb_endpoints": [_endpoint(instance, secured, described) for instance, secured in endpoints],
    }


def _endpoint(instance: Instance, secured: bool, described: bool) -> dict[str, Any]:
    socket = {"address": instance.address, "port_value": instance.port}
    return {
        "endpoint": {"address": {"socket_address": socket}},
        "health_status": "HEALTHY",
        "load_balancing_weight": {"value": max(1, instance.weight)},
        **({"metadata": {"filter_metadata": _metadata(instance, secured)}} if described else {}),
    }


def _metadata(instance: Instance, secured: bool) -> dict[str, Any]:
    facts = {"istio": struct({"workload": _workload(instance)}), "meshlib": struct(_facts(instance))}
    return {**facts, "envoy.transport_socket_match": struct({TLS_MODE: IN_MESH})} if secured else facts


def _facts(instance: Instance) -> dict[str, Any]:
    return {"instance": instance.name, "service_account": instance.service_account, "labels": instance.labels}


def _workload(instance: Instance) -> str:
    """Istio's form: workload;namespace;canonical service;canonical revision;cluster."""
    labels = instance.labels
    service = labels.get("service.istio.io/canonical-name") or labels.get("app") or instance.workload
    revision = labels.get("service.istio.io/canonical-revision") or labels.get("version") or "latest"
    return f"{instance.workload};{instance.namespace};{service};{revision};Kubernetes"
