"""Who is there: connected instances and declared services become the services of a `World`.

Rule 1: the xDS stream is the lease. A node exists while at least one of its streams does.
Rule 2: one address and port is one instance, however many streams (workers of a prefork server) announce it; the last
        announcement says what its labels are.
Rule 3: a registered service beats a ServiceEntry for the same host and port; an older ServiceEntry beats a newer one.
Rule 4: a service whose last instance left stays known, without instances, as a Kubernetes Service without pods does. Else its
        host would count as outside the mesh, and requests would go in plain text to whatever DNS says. It gives way to a
        ServiceEntry. In memory only: after a restart a service is unknown until an instance registers.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from meshlib_control import names
from meshlib_control.index import indexed
from meshlib_control.model import Instance, MeshObject, Node, ObjectKey, Registration, Service, ServicePort, World
from meshlib_control.translate.service_entry import declared_services


class Registry:
    """Connected nodes, and the worlds made of them. Safe to call from several threads.

    Args:
        trust_domain, root_namespace, domain_suffix: written into every world.
    """

    def __init__(
        self,
        trust_domain: str = "cluster.local",
        root_namespace: str = "istio-system",
        domain_suffix: str = "cluster.local",
    ) -> None:
        self._empty = World(trust_domain=trust_domain, root_namespace=root_namespace, domain_suffix=domain_suffix)
        self._lock = threading.Lock()
        self._streams: dict[str, Node] = {}  # in order of announcement
        self._remembered: dict[str, Service] = {}  # without instances, by host
        self._listeners: list[Callable[[], None]] = []
        self._revision = 0

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change of what is registered, in the thread that made it."""
        self._listeners.append(listener)

    def connect(self, stream_id: str, node: Node) -> None:
        """A stream opened, or an open one describes its node anew."""
        with self._lock:
            before = self._streams.pop(stream_id, None)
            self._streams[stream_id] = node
            self._remember(node)
        if before != node and (node.registrations or (before and before.registrations)):
            self._notify()

    def disconnect(self, stream_id: str) -> None:
        """A stream ended. Unknown streams are ignored: ending twice is harmless."""
        with self._lock:
            before = self._streams.pop(stream_id, None)
        if before and before.registrations:
            self._notify()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of all open streams, in order of announcement."""
        with self._lock:
            return tuple(self._streams.values())

    def world(self, objects: Mapping[ObjectKey, MeshObject]) -> World:
        """A new world of these objects and of what is registered now."""
        with self._lock:
            self._revision += 1
            revision, nodes, remembered = self._revision, tuple(self._streams.values()), dict(self._remembered)
        world = indexed(replace(self._empty, objects=MappingProxyType(dict(objects)), revision=revision))
        services = _registered_services(nodes, world.domain_suffix)
        for declared in declared_services(world, nodes):
            known = services.get(declared.hostname)
            services[declared.hostname] = _joined(known, declared) if known else declared
        for host, left in sorted(remembered.items()):
            services[host] = _joined(services[host], left) if host in services else left
        return replace(world, services=MappingProxyType(services))

    def _remember(self, node: Node) -> None:
        for host, service in _registered_services((node,), self._empty.domain_suffix).items():
            empty = replace(service, instances=MappingProxyType({port.number: () for port in service.ports}))
            before = self._remembered.get(host)
            self._remembered[host] = _joined(empty, before) if before else empty

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def _registered_services(nodes: Iterable[Node], domain: str) -> dict[str, Service]:
    instances: dict[str, dict[int, dict[tuple[str, int], Instance]]] = defaultdict(lambda: defaultdict(dict))
    ports: dict[str, dict[int, ServicePort]] = defaultdict(dict)
    namespaces: dict[str, str] = {}
    for node in nodes:
        for entry in node.registrations:
            host = names.service_hostname(entry.service, node.namespace, domain)
            namespaces[host] = node.namespace
            ports[host][entry.port] = ServicePort(entry.port, entry.protocol.lower(), entry.protocol.lower())
            instances[host][entry.port][(node.address, entry.target_port)] = registered_instance(node, entry)
    return {
        host: Service(
            hostname=host,
            namespace=namespaces[host],
            ports=tuple(ports[host][number] for number in sorted(ports[host])),
            instances=MappingProxyType({port: _in_order(found.values()) for port, found in by_port.items()}),
        )
        for host, by_port in sorted(instances.items())
    }


def registered_instance(node: Node, entry: Registration) -> Instance:
    """The endpoint that a node's registration announces."""
    return Instance(
        address=node.address,
        port=entry.target_port,
        labels=node.labels,
        locality=node.locality,
        name=node.instance,
        workload=node.workload or node.instance,
        namespace=node.namespace,
        service_account=node.service_account,
    )


def _in_order(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    # The order of announcement changes when a stream reconnects; equal worlds must give equal resources.
    return tuple(sorted(instances, key=lambda instance: (instance.address, instance.port)))


def _joined(first: Service, second: Service) -> Service:
    """The first service, with the ports of the second that it lacks (rule 3)."""
    known = {port.number for port in first.ports}
    added = tuple(port for port in second.ports if port.number not in known)
    if not added:
        return first
    instances = {**{port.number: second.instances.get(port.number, ()) for port in added}, **first.instances}
    return replace(first, ports=(*first.ports, *added), instances=MappingProxyType(instances))
