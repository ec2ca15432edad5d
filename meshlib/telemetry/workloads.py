"""Who is who, in the words of Istio's labels: from a cluster and its endpoint, and from a peer's identity and what it tells.

A client knows its servers from the control plane. A server knows of its client what the certificate proves: namespace and
service account. The rest (workload, app, version) the client tells in a small header on mutual TLS connections, as Istio's
sidecars do with x-envoy-peer-metadata. It is believed for labels only, and only if it names the namespace and service account
that the certificate proves. Servers remove it before the application sees the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote, unquote

from meshlib.facts import Peer
from meshlib.telemetry.events import Workload

PEER_HEADER = "x-meshlib-peer"
_PEER_FIELDS = 6
_PEER_LIMIT = 1024  # characters; a longer header is no statement of ours


class UpstreamEndpoint(Protocol):
    """What labels need to know of an endpoint; `meshlib.config.model.Endpoint` is one."""

    @property
    def workload(self) -> str:
        """The workload's name, `reviews-v1`."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels; `app` and `version` are used."""


def local_workload(
    *, service: str, namespace: str, workload: str = "", labels: Mapping[str, str] | None = None, domain: str = "cluster.local"
) -> Workload:
    """This process as one side of a request. Its principal is set later, by `Telemetry.identify`.

    Args:
        service: short name, as in `reviews`; empty for a pure client.
        workload: `service-version` if empty.
    """
    labels = labels or {}
    version = labels.get("version", "")
    return Workload(
        workload=workload or "-".join(part for part in (service, version) if part),
        namespace=namespace,
        app=labels.get("app", service),
        version=version,
        service=f"{service}.{namespace}.svc.{domain}" if service else "",
        service_name=service,
    )


def upstream_workload(cluster: str, endpoint: UpstreamEndpoint | None, principal: str = "") -> Workload:
    """The destination of a request, as its sender knows it.

    Args:
        cluster: Istio's name, `outbound|9080|v2|reviews.default.svc.cluster.local`, or a bare host where none was chosen.
        endpoint: None if the request did not get that far.
        principal: SPIFFE id that the endpoint proved; empty on plain connections.
    """
    if endpoint is None:
        return _upstream(cluster, "", "", "", "", principal)
    labels = endpoint.labels
    return _upstream(
        cluster, endpoint.workload, endpoint.namespace, labels.get("app", ""), labels.get("version", ""), principal
    )


@lru_cache(maxsize=4096)
def _upstream(cluster: str, workload: str, namespace: str, app: str, version: str, principal: str) -> Workload:
    host = cluster.rsplit("|", 1)[-1]
    name, of_service = service_parts(host)
    return Workload(workload, namespace or of_service, principal, app, version, host, name)


def service_parts(host: str) -> tuple[str, str]:
    """Service name and namespace of a host; the whole host and no namespace if it is no Kubernetes service name."""
    parts = host.split(".")
    return (parts[0], parts[1]) if len(parts) > 2 and parts[2] == "svc" else (host, "")


def peer_header(local: Workload) -> tuple[str, str]:
    """What we tell servers about ourselves, as a header: percent-encoded fields, separated by semicolons."""
    namespace, account = spiffe_parts(local.principal)
    fields = (local.workload, namespace, account, local.app, local.version, local.cluster)
    return PEER_HEADER, ";".join(quote(field, safe="") for field in fields)


def peer_workload(peer: Peer, told: str) -> Workload:
    """The source of a request, as its receiver knows it.

    Args:
        told: the value of the peer's PEER_HEADER; empty if it sent none.
    """
    return _peer(peer.spiffe_id, told if len(told) <= _PEER_LIMIT else "")


@lru_cache(maxsize=1024)
def _peer(principal: str, told: str) -> Workload:
    if not principal:
        return Workload(cluster="")
    namespace, account = spiffe_parts(principal)
    fields = [unquote(field, errors="replace") for field in told.split(";")]
    if len(fields) != _PEER_FIELDS or (fields[1], fields[2]) != (namespace, account):
        return Workload(namespace=namespace, principal=principal, cluster="")
    return Workload(fields[0], namespace, principal, fields[3], fields[4], cluster=fields[5])


def spiffe_parts(principal: str) -> tuple[str, str]:
    """Namespace and service account of `spiffe://cluster.local/ns/default/sa/reviews`; empty strings for other forms."""
    parts = principal.split("/")
    return (parts[4], parts[6]) if len(parts) == 7 and (parts[3], parts[5]) == ("ns", "sa") else ("", "")
