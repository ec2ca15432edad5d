"""Istio's own files, translated and read again: by protobuf, by the library, by Envoy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshlib.config.decode import decode
from meshlib.config.model import Assignment, Cluster, OutboundListener, RouteConfiguration
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests.support.worlds import NETWORKING, client, conformance_data, decoded, outbound, read, server, world

KINDS = {LISTENER: Kind.LISTENER, ROUTE: Kind.ROUTE, CLUSTER: Kind.CLUSTER, ENDPOINT: Kind.ASSIGNMENT}
SERVICES = {"productpage": ["v1"], "details": ["v1"], "reviews": ["v1", "v2", "v3"], "ratings": ["v1"]}
NODES = [
    server(service, version, 7000 + 10 * number + int(version[1:]))
    for number, (service, versions) in enumerate(SERVICES.items())
    for version in versions
]
FILES = sorted(path.name for path in NETWORKING.glob("*.yaml")) or ["no conformance data"]
RULES = "destination-rule-all.yaml"


def bookinfo(*files: str) -> World:
    folder = conformance_data(NETWORKING)
    items = {}
    for age, name in enumerate(files):
        items.update(read((folder / name).read_text(), file=name, age=1000.0 * age))
    return world(items=items, nodes=NODES)


def resources(found: World, node: Node) -> Iterator[tuple[str, Resource]]:
    """Everything that a node could ask for."""
    for name in wildcard_names(found, node, CLUSTER):
        yield from made(found, node, CLUSTER, name)
        yield from made(found, node, ENDPOINT, name)
        yield from made(found, node, ROUTE, name)
    for name in wildcard_names(found, node, LISTENER):
        yield from made(found, node, LISTENER, name)
        if node.kind == "envoy":
            yield from made(found, node, ROUTE, name.rpartition("_")[2])


def made(found: World, node: Node, type_url: str, name: str) -> Iterator[tuple[str, Resource]]:
    resource = translate(found, node, type_url, name)
    if resource is not None:
        yield type_url, resource


@pytest.mark.parametrize("kind", ["library", "grpc", "envoy"])
@pytest.mark.parametrize("file", FILES)
def test_every_file_is_translated_into_messages_that_protobuf_reads(file: str, kind: str) -> None:
    """With the names they were asked under."""
    node = server("productpage", kind=kind)
    found = list(resources(bookinfo(RULES, file), node))
    assert len(found) > 20
    for type_url, resource in found:
        body = decoded(resource)
        assert (body.cluster_name if type_url == ENDPOINT else body.name) == resource.name


@pytest.mark.parametrize("file", FILES)
def test_the_library_accepts_everything_made_of_every_file(file: str) -> None:
    """No NACK: what is not effective yet is left out here, not refused there."""
    kinds = set()
    for type_url, resource in resources(bookinfo(RULES, file), server("productpage")):
        kinds.add(type(decode(KINDS[type_url], resource.body)))
    assert kinds == {OutboundListener, InboundListener, RouteConfiguration, Cluster, Assignment}


def routes_of(found: World, name: str) -> RouteConfiguration:
    resource = translate(found, client(), ROUTE, outbound(name))
    assert resource is not None
    routes = decode(Kind.ROUTE, resource.body)
    assert isinstance(routes, RouteConfiguration)
    return routes


def test_jason_sees_v2_and_everybody_else_v3() -> None:
    """virtual-service-reviews-jason-v2-v3, as the library reads it."""
    (virtual_host,) = routes_of(bookinfo(RULES, "virtual-service-reviews-jason-v2-v3.yaml"), "reviews").virtual_hosts
    jason, others = virtual_host.routes
    assert [(header.name, header.match.value) for header in jason.match.headers] == [("end-user", "jason")]
    assert jason.clusters[0].name == outbound("reviews", subset="v2")
    assert (others.match.headers, others.clusters[0].name) == ((), outbound("reviews", subset="v3"))
    assert jason.origin is not None
    assert str(jason.origin) == ("VirtualService default/reviews spec.http[0] (virtual-service-reviews-jason-v2-v3.yaml:9)")


def test_a_delay_of_seven_seconds_for_jason() -> None:
    """virtual-service-ratings-test-delay, as the library reads it."""
    (virtual_host,) = routes_of(bookinfo(RULES, "virtual-service-ratings-test-delay.yaml"), "ratings").virtual_hosts
    jason, others = virtual_host.routes
    assert jason.fault is not None
    assert jason.fault.delay is not None
    assert (jason.fault.delay.seconds, jason.fault.delay.fraction, others.fault) == (7.0, 1.0, None)


def test_eighty_to_twenty() -> None:
    """virtual-service-reviews-80-20, as the library reads it."""
    (virtual_host,) = routes_of(bookinfo(RULES, "virtual-service-reviews-80-20.yaml"), "reviews").virtual_hosts
    (route,) = virtual_host.routes
    assert [(share.name.split("|")[2], share.weight) for share in route.clusters] == [("v1", 80), ("v2", 20)]
