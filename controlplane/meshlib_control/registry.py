"""Who is there: connected instances and declared services become the services of a `World`.

Rule 1: the xDS stream is the lease. A node exists while at least one of its streams does; after a restart of the control
        plane, nodes known from before it exist a while longer, until they are back (`remember`).
Rule 2: a registered service beats a ServiceEntry for the same host and port, but for one that nobody serves any more; an older
        ServiceEntry beats a newer one.
Rule 3: what did not change is the same object in the next world.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from meshlib_control.announced import AnnouncedServices, joined
from meshlib_control.index import IndexedWorld, indexed
from meshlib_control.mesh_config import mesh_config
from meshlib_control.model import MeshObject, Node, ObjectKey, Service, World
from meshlib_control.translate.service_entry import declared_services


class Registry:
    """Connected nodes, and the worlds made of them. Safe to call from several threads.

    Args:
        trust_domain, root_namespace, domain_suffix, roots: written into every world.
    """

    def __init__(
        self,
        trust_domain: str = "cluster.local",
        root_namespace: str = "istio-system",
        domain_suffix: str = "cluster.local",
        roots: str = "",
    ) -> None:
        self._empty = World(trust_domain=trust_domain, root_namespace=root_namespace, domain_suffix=domain_suffix, roots=roots)
        self._lock = threading.Lock()
        self._streams: dict[str, Node] = {}  # in order of announcement
        self._remembered: dict[str, Node] = {}  # the same, from before a restart
        self._announced = AnnouncedServices(domain_suffix)
        self._index = indexed(self._empty)
        self._declared: tuple[Service, ...] = ()
        self._declared_from: tuple[Any, ...] = ()
        self._listeners: list[Callable[[], None]] = []
        self._revision = 0

    def trust(self, roots: str, revoked: str = "") -> None:
        """Other roots prove everybody from now on, but for what is revoked. The next world says so."""
        with self._lock:
            self._empty = replace(self._empty, roots=roots, revoked=revoked)
            self._index = replace(self._index, roots=roots, revoked=revoked)
        self._notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change of what is registered, in the thread that made it."""
        self._listeners.append(listener)

    def connect(self, stream_id: str, node: Node) -> None:
        """A stream opened, or an open one describes its node anew."""
        with self._lock:
            before = self._streams.pop(stream_id, None)
            self._streams[stream_id] = node
            self._replace(stream_id, before, node)
            self._replace(_former(node), self._remembered.pop(_former(node), None), None)
        if before != node and (node.registrations or (before and before.registrations)):
            self._notify()

    def disconnect(self, stream_id: str) -> None:
        """A stream ended. Unknown streams are ignored: ending twice is harmless."""
        with self._lock:
            before = self._streams.pop(stream_id, None)
            self._replace(stream_id, before, None)
        if before and before.registrations:
            self._notify()

    def remember(self, nodes: Iterable[Node]) -> None:
        """Nodes known from before a restart: they count as connected until they are, or until `forget_remembered`."""
        with self._lock:
            for node in nodes:
                self._replace(_former(node), self._remembered.get(_former(node)), node)
                self._remembered[_former(node)] = node
        self._notify()

    def forget_remembered(self) -> int:
        """Everybody had time to come back. Returns how many did not."""
        with self._lock:
            missing, self._remembered = self._remembered, {}
            for stream_id, node in missing.items():
                self._replace(stream_id, node, None)
        if missing:
            self._notify()
        return len(missing)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of all open streams, in order of announcement."""
        with self._lock:
            return tuple(self._streams.values())

    @property
    def members(self) -> tuple[Node, ...]:
        """Those who are remembered, and those who are there; each once."""
        with self._lock:
            return (*self._remembered.values(), *{_former(node): node for node in self._streams.values()}.values())

    def world(self, objects: Mapping[ObjectKey, MeshObject]) -> World:
        """A new world of these objects and of what is registered now."""
        with self._lock:
            self._revision += 1
            known = self._indexed(objects)
            services = self._announced.services()
            for declared in self._declared_services(known):
                services[declared.hostname] = _both(services.get(declared.hostname), declared)
            return replace(known, services=MappingProxyType(services), revision=self._revision)

    def _replace(self, stream_id: str, before: Node | None, after: Node | None) -> None:
        if before is not None:
            self._announced.take(stream_id, before)
        if after is not None:
            self._announced.put(stream_id, after)

    def _indexed(self, objects: Mapping[ObjectKey, MeshObject]) -> IndexedWorld:
        if self._index.objects != objects:
            world = replace(self._empty, objects=MappingProxyType(dict(objects)), mesh=mesh_config(objects))
            self._index = indexed(world)
        return self._index

    def _declared_services(self, known: IndexedWorld) -> tuple[Service, ...]:
        entries = known.of_kind("ServiceEntry")
        selective = any(getattr(item.spec, "workload_selector", None) is not None for item in entries)
        nodes = (*self._remembered.values(), *self._streams.values()) if selective else ()
        made_from = (entries, known.of_kind("WorkloadEntry"), nodes)
        if made_from != self._declared_from:
            self._declared, self._declared_from = tuple(declared_services(known, nodes)), made_from
        return self._declared

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def _both(registered: Service | None, declared: Service) -> Service:
    if registered is None:
        return declared
    served = any(registered.instances.values())
    return joined(registered, declared) if served else joined(declared, registered)


def _former(node: Node) -> str:
    """The stream of a node in a former life. Nobody else's can be taken back: the identity is proven."""
    return f"{node.spiffe_id} {node.id}"
