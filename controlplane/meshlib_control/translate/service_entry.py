"""ServiceEntry: services that do not register themselves. Istio: serviceentry/conversion.go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType

from meshlib.config.model import UNKNOWN_LOCALITY, Locality
from meshlib_control.kinds import ServiceEntry, WorkloadEntry
from meshlib_control.kinds import service_entry as kinds
from meshlib_control.model import Instance, MeshObject, Node, Resolution, Service, ServicePort, World
from meshlib_control.translate.scope import selects

TLS_MODE_LABEL = "security.istio.io/tlsMode"


def declared_services(world: World, nodes: Iterable[Node]) -> Iterator[Service]:
    """Services that the world's ServiceEntries declare, the oldest first; of rivals for a host the oldest only.

    Args:
        nodes: what a workloadSelector may select.
    """
    connected = list({(node.address, node.instance): node for node in nodes}.values())
    taken: set[str] = set()
    for item in world.of_kind("ServiceEntry"):
        if not isinstance(item.spec, ServiceEntry):
            continue
        for host in item.spec.hosts:
            if host.lower() not in taken:
                taken.add(host.lower())
                yield _service(world, item, host.lower(), connected)


def _service(world: World, item: MeshObject, host: str, nodes: list[Node]) -> Service:
    spec = item.spec
    resolution = _resolution(spec)
    workloads = list(_workloads(world, item, nodes))
    if resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN} and not workloads:
        # Istio: without endpoints the host itself is looked up.
        workloads = [(item.key.name, WorkloadEntry(address=host))]
    return Service(
        hostname=host,
        namespace=item.key.namespace,
        ports=tuple(ServicePort(port.number, port.protocol.lower() or "tcp", port.name) for port in spec.ports),
        instances=MappingProxyType(
            {port.number: tuple(_instance(item, name, workload, port) for name, workload in workloads) for port in spec.ports}
        ),
        resolution=resolution,
        external=spec.location == "MESH_EXTERNAL",
        subject_alt_names=frozenset(spec.subject_alt_names),
        origin=item.key,
    )


def _resolution(spec: ServiceEntry) -> Resolution:
    # DYNAMIC_DNS looks up what the request names; towards the client that is the original destination.
    return Resolution.NONE if spec.resolution == "DYNAMIC_DNS" else Resolution[spec.resolution]


def _workloads(world: World, item: MeshObject, nodes: list[Node]) -> Iterator[tuple[str, WorkloadEntry]]:
    spec = item.spec
    yield from ((item.key.name, endpoint) for endpoint in spec.endpoints)
    if spec.workload_selector is None:
        return
    labels = spec.workload_selector.labels
    for entry in world.of_kind("WorkloadEntry"):
        same_namespace = entry.key.namespace == item.key.namespace and isinstance(entry.spec, WorkloadEntry)
        if same_namespace and selects(labels, entry.spec.labels):
            yield entry.key.name, entry.spec
    yield from (
        (node.workload or node.instance, _as_workload(node))
        for node in nodes
        if node.namespace == item.key.namespace and selects(labels, node.labels)
    )


def _as_workload(node: Node) -> WorkloadEntry:
    return WorkloadEntry(
        address=node.address,
        labels={**node.labels, TLS_MODE_LABEL: "istio"},
        locality=f"{node.locality.region}/{node.locality.zone}/{node.locality.sub_zone}".rstrip("/"),
        service_account=node.service_account,
    )


def _instance(item: MeshObject, name: str, workload: WorkloadEntry, port: kinds.ServicePort) -> Instance:
    return Instance(
        address=workload.address,
        port=workload.ports.get(port.name) or port.target_port or port.number,
        labels=workload.labels,
        locality=_locality(workload.locality),
        weight=workload.weight or 1,
        name=name,
        workload=name,
        namespace=item.key.namespace,
        service_account=workload.service_account,
        in_mesh=workload.labels.get(TLS_MODE_LABEL) == "istio",
    )


def _locality(text: str) -> Locality:
    parts = text.split("/") if text else []
    return Locality(*parts[:3]) if parts else UNKNOWN_LOCALITY
