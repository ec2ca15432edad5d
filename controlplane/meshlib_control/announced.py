"""Services as connected nodes announce them, kept up to date announcement by announcement.

Rule 1: a service that no announcement touched stays the same object: what was made of it stays valid, and a world of
        thousands of services costs what has changed.
Rule 2: one address and port is one instance, however many streams announce it; the last announcement says what its labels are.
Rule 3: a service or port whose last instance left stays known, without instances, as a Kubernetes Service without pods does.
        Else its host would count as outside the mesh, and requests would go in plain text to whatever DNS says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from meshlib_control import names
from meshlib_control.model import Instance, Node, Registration, Service, ServicePort

Announcements = Mapping[str, tuple[Node, tuple[Registration, ...]]]
"""By stream, in order of announcement: a node, and those of its registrations that are for one host."""


class AnnouncedServices:
    """The services of all announcements. Not safe to call from several threads.

    Args:
        domain: of full names, `cluster.local`.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._by_host: dict[str, dict[str, tuple[Node, tuple[Registration, ...]]]] = defaultdict(dict)
        self._stale: set[str] = set()
        self._services: dict[str, Service] = {}

    def put(self, stream_id: str, node: Node) -> None:
        """A stream announces its node; what it announced before must have been taken back."""
        for host, entries in self._hosts(node).items():
            self._by_host[host][stream_id] = (node, tuple(entries))
            self._stale.add(host)

    def take(self, stream_id: str, node: Node) -> None:
        """Take back what a stream announced."""
        for host in self._hosts(node):
            if host in self._stale:
                self._renew(host)  # known from now on, although nobody has asked yet (rule 3)
            self._by_host[host].pop(stream_id, None)
            self._stale.add(host)

    def services(self) -> dict[str, Service]:
        """All services by hostname, in order of names; a copy."""
        for host in self._stale:
            self._renew(host)
        if self._stale:
            self._services = dict(sorted(self._services.items()))
        self._stale.clear()
        return dict(self._services)

    def _renew(self, host: str) -> None:
        announced, before = self._by_host[host], self._services.get(host)
        service = announced_service(host, announced) if announced else None
        if not announced:
            del self._by_host[host]
        if service and before:
            service = joined(service, deserted(before))
        elif before:
            service = deserted(before)
        if service is not None and service != before:
            self._services[host] = service

    def _hosts(self, node: Node) -> Mapping[str, list[Registration]]:
        found: dict[str, list[Registration]] = defaultdict(list)
        for entry in node.registrations:
            found[names.service_hostname(entry.service, node.namespace, self._domain)].append(entry)
        return found


def announced_service(host: str, announced: Announcements) -> Service:
    """The service of a host that is announced at least once."""
    instances: dict[int, dict[tuple[str, int], Instance]] = defaultdict(dict)
    ports: dict[int, ServicePort] = {}
    namespace = ""
    for node, entries in announced.values():
        namespace = node.namespace
        for entry in entries:
            ports[entry.port] = ServicePort(entry.port, entry.protocol.lower(), entry.protocol.lower())
            instances[entry.port][(node.address, entry.target_port)] = registered_instance(node, entry)
    return Service(
        hostname=host,
        namespace=namespace,
        ports=tuple(ports[number] for number in sorted(ports)),
        instances=MappingProxyType({port: _in_order(found.values()) for port, found in instances.items()}),
    )


def deserted(service: Service) -> Service:
    """The service with all its ports and without instances."""
    return replace(service, instances=MappingProxyType({port.number: () for port in service.ports}))


def joined(first: Service, second: Service) -> Service:
    """The first service, with the ports of the second that it lacks."""
    known = {port.number for port in first.ports}
    added = tuple(port for port in second.ports if port.number not in known)
    if not added:
        return first
    instances = {**{port.number: second.instances.get(port.number, ()) for port in added}, **first.instances}
    return replace(first, ports=(*first.ports, *added), instances=MappingProxyType(instances))


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
        permissive=node.kind != "grpc",
    )


def _in_order(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    # The order of announcement changes when a stream reconnects; equal worlds must give equal resources.
    return tuple(sorted(instances, key=lambda instance: (instance.address, instance.port)))
