"""How a client of the control plane describes itself, in Istio's words: plain data, for our stream and for bootstrap files."""

from __future__ import annotations

from typing import Any

from meshlib.runtime.settings import Settings


def node_id(kind: str, settings: Settings, address: str) -> str:
    """Istio's form: `library~<ip>~<instance>.<namespace>~<namespace>.svc.<domain>`.

    Args:
        kind: `library` or `grpc`: which client it is.
        address: the IP address under which others reach it.
    """
    namespace = settings.namespace
    return f"{kind}~{address}~{settings.instance}.{namespace}~{namespace}.svc.{settings.domain}"


def node_cluster(settings: Settings) -> str:
    """The node's `cluster`: whose instance it is."""
    return f"{settings.service or settings.workload}.{settings.namespace}"


def node_locality(settings: Settings) -> dict[str, str]:
    """The node's `locality`."""
    where = settings.locality
    return {"region": where.region, "zone": where.zone, "sub_zone": where.sub_zone}


def node_metadata(kind: str, settings: Settings, address: str, services: list[dict[str, str | int]]) -> dict[str, Any]:
    """The node's `metadata`.

    Args:
        services: what it serves, made by `served`; empty for a pure client.
    """
    return {
        "GENERATOR": kind,
        "NAMESPACE": settings.namespace,
        "NAME": settings.instance,
        "WORKLOAD_NAME": settings.workload,
        "LABELS": dict(settings.labels),
        "CLUSTER_ID": "Kubernetes",
        "INSTANCE_IPS": address,
        "MESHLIB_SERVICES": services,
    }


def served(settings: Settings, target_port: int, protocol: str = "") -> list[dict[str, str | int]]:
    """What the process serves: its service on a port of its own; nothing without a service or a port.

    Args:
        target_port: where it listens.
        protocol: default: the settings'.
    """
    if not settings.service or not target_port:
        return []
    port = settings.port or target_port
    return [{"service": settings.service, "port": port, "target_port": target_port, "protocol": protocol or settings.protocol}]
