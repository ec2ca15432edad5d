"""Worlds for tests of the control plane: YAML and a few registered nodes in, resources out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.messages import TYPE_PREFIX, message
from meshlib_control import objects, yaml
from meshlib_control.model import MeshObject, Node, ObjectKey, Registration, Resource, World
from meshlib_control.registry import Registry
from meshlib_control.translate import translate
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE

CONFORMANCE = Path(__file__).parents[3] / "shared" / "conformance"
NETWORKING = CONFORMANCE / "istio" / "samples" / "bookinfo" / "networking"
SUFFIX = "svc.cluster.local"


def conformance_data(folder: Path) -> Path:
    """A folder of third-party data, or a skipped test."""
    if not folder.is_dir():
        pytest.skip("no conformance data")
    return folder


def read(*texts: str, namespace: str = "default", file: str = "test.yaml", age: float = 0.0) -> dict[ObjectKey, MeshObject]:
    """The objects of YAML texts; each is a second younger than the one before."""
    found: dict[ObjectKey, MeshObject] = {}
    for text in texts:
        for document in yaml.load(text, file):
            for item in objects.read(document, namespace):
                found[item.key] = replace(item, created=age + len(found))
    return found


def server(
    service: str = "reviews",
    version: str = "v1",
    port: int = 7001,
    namespace: str = "default",
    address: str = "127.0.0.1",
    **changes: Any,
) -> Node:
    """A process that serves port 9080 of a service."""
    facts = {
        "id": f"library~{address}~{service}-{version}-{port}.{namespace}~{namespace}.{SUFFIX}",
        "kind": "library",
        "instance": f"{service}-{version}-{port}",
        "namespace": namespace,
        "service_account": f"bookinfo-{service}",
        "spiffe_id": f"spiffe://cluster.local/ns/{namespace}/sa/bookinfo-{service}",
        "address": address,
        "labels": {"app": service, "version": version},
        "workload": f"{service}-{version}",
        "registrations": (Registration(service, 9080, port),),
    }
    return Node(**{**facts, **changes})


def client(namespace: str = "default", kind: str = "library", **labels: str) -> Node:
    """A process that serves nothing."""
    return server("client", namespace=namespace, kind=kind, labels=labels, registrations=())


REVIEWS = tuple(server(version=f"v{number}", port=7000 + number) for number in (1, 2, 3))


def world(*texts: str, nodes: Iterable[Node] = REVIEWS, items: dict[ObjectKey, MeshObject] | None = None) -> World:
    """A world of YAML and registered nodes: reviews in three versions unless told otherwise."""
    registry = Registry()
    for number, node in enumerate(nodes):
        registry.connect(str(number), node)
    return registry.world(items if items is not None else read(*texts))


def decoded(resource: Resource | None) -> Any:
    """The message in a resource."""
    assert resource is not None
    return message(resource.type_url.removeprefix(TYPE_PREFIX)).FromString(resource.body)


def host(name: str, namespace: str = "default") -> str:
    """The full name of a registered service."""
    return f"{name}.{namespace}.{SUFFIX}"


def outbound(name: str, port: int = 9080, subset: str = "") -> str:
    """A cluster's name; without a subset also the route configuration's."""
    return f"outbound|{port}|{subset}|{name if '.' in name else host(name)}"


def listener(world: World, name: str, node: Node | None = None) -> Any | None:
    """The listener as a message; None if there is none."""
    found = translate(world, node or client(), LISTENER, name)
    return decoded(found) if found else None


def routes(world: World, name: str = "reviews", port: int = 9080, node: Node | None = None) -> list[Any]:
    """The routes of a host's only virtual host."""
    (virtual_host,) = decoded(translate(world, node or client(), ROUTE, outbound(name, port))).virtual_hosts
    return list(virtual_host.routes)


def cluster(world: World, name: str = "reviews", subset: str = "", port: int = 9080, node: Node | None = None) -> Any | None:
    """The cluster as a message; None if there is none."""
    found = translate(world, node or client(), CLUSTER, outbound(name, port, subset))
    return decoded(found) if found else None


def endpoints(
    world: World, name: str = "reviews", subset: str = "", port: int = 9080, node: Node | None = None
) -> dict[int, Any]:
    """The endpoints of a cluster by their port; raises if there is no such assignment."""
    assignment = decoded(translate(world, node or client(), ENDPOINT, outbound(name, port, subset)))
    return {
        endpoint.endpoint.address.socket_address.port_value: endpoint
        for group in assignment.endpoints
        for endpoint in group.lb_endpoints
    }
