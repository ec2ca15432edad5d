"""What is kept from world to world is what a fresh translation would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlib_control.index import indexed
from meshlib_control.model import Node, Registration, World
from meshlib_control.reads import Difference, noted_node, noted_world
from meshlib_control.registry import Registry
from meshlib_control.snapshots import Snapshots
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests.support.worlds import client, outbound, read, server

VIRTUAL = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: SPACE}
spec:
  hosts: ["HOST"]
  http:
  - match: [{sourceLabels: {app: web}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: ratings}}]
"""
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME, namespace: SPACE}
spec: {host: "HOST", subsets: [{name: v2, labels: {version: v2}}]}
"""
SELECTIVE = RULE.replace("spec: {", "spec: {workloadSelector: {matchLabels: {app: web}}, ")
PEER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: NAME, namespace: SPACE}
spec: {mtls: {mode: MODE}}
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: SPACE}
spec:
  hosts: ["HOST"]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: ratings}}
"""
HOSTS = ("reviews", "ratings", "*.default.svc.cluster.local", "shop.example")
TEXTS = tuple(
    text.replace("NAME", name).replace("SPACE", space).replace("HOST", host).replace("MODE", mode)
    for text in (VIRTUAL, RULE, SELECTIVE, PEER, ENTRY)
    for name, space, host, mode in (
        ("a", "default", HOSTS[0], "STRICT"),
        ("b", "default", HOSTS[1], "DISABLE"),
        ("c", "istio-system", HOSTS[2], "STRICT"),
        ("d", "bank", HOSTS[3], "PERMISSIVE"),
    )
)
NODES = tuple(
    server(service, version, 7000 + number, namespace)
    for number, (service, version, namespace) in enumerate(
        [("reviews", "v1", "default"), ("reviews", "v2", "default"), ("ratings", "v1", "default"), ("ratings", "v2", "bank")]
    )
)
NAMES: dict[str, tuple[str, ...]] = {
    LISTENER: ("reviews:9080", "ratings.default:9080", "shop.example:9080", "xds.istio.io/grpc/lds/inbound/127.0.0.1:7000"),
    ROUTE: (outbound("reviews"), outbound("ratings"), outbound("shop.example")),
    CLUSTER: (outbound("reviews"), outbound("reviews", subset="v2"), outbound("ratings"), outbound("shop.example")),
    ENDPOINT: (outbound("reviews"), outbound("reviews", subset="v2"), outbound("ratings"), outbound("shop.example")),
}
ASKING = (
    client(app="web"),
    client(app="other"),
    client("bank"),
    client(kind="grpc"),
    client(kind="envoy", app="web"),
    server("reviews", "v1", 7000, kind="envoy"),
)

worlds = st.tuples(st.sets(st.sampled_from(TEXTS), max_size=5), st.sets(st.sampled_from(range(len(NODES)))))


def everything(look: Any) -> dict[tuple[str, str], Any]:
    return {(kind, name): look(kind, name) for kind, names in NAMES.items() for name in names}


@settings(max_examples=60, deadline=None)
@given(st.lists(worlds, min_size=2, max_size=5), st.sampled_from(ASKING))
def test_what_is_kept_is_what_would_be_made_anew(moments: list[tuple[set[str], set[int]]], node: Node) -> None:
    """For every resource, every kind of client, every order of changes; and what changed is listed as changed."""
    registry, published = Registry(), Snapshots()
    items = {text: read(text) for text in TEXTS}
    before: dict[tuple[str, str], Any] = {}
    for texts, numbers in moments:
        for number, each in enumerate(NODES):
            if number in numbers:
                registry.connect(str(number), each)
            else:
                registry.disconnect(str(number))
        revision = published.current.world.revision
        published.publish(registry.world({key: item for text in sorted(texts) for key, item in items[text].items()}))
        world, view = published.current.world, published.current.view(node)
        changed = {kind: view.changed_since(revision, kind) for kind in NAMES}
        now = everything(view.resource)
        assert now == everything(lambda kind, name, world=world: translate(world, node, kind, name))
        for kind in (CLUSTER, LISTENER):
            assert set(view.names(kind)) == set(wildcard_names(world, node, kind))
        unlisted = {place for place in before if before[place] != now[place] and place[1] not in (changed[place[0]] or ())}
        assert not unlisted
        before = now


def test_reading_is_noted_key_by_key() -> None:
    """Also what is not there."""
    registry = Registry()
    registry.connect("a", NODES[0])
    notes: set[Any] = set()
    world = noted_world(registry.world({}), notes)
    assert world.services.get("nowhere") is None
    assert world.services[f"reviews.default.svc.{world.domain_suffix}"].ports
    assert notes >= {("services", "nowhere"), ("services", "reviews.default.svc.cluster.local", "ports")}
    assert ("services", "reviews.default.svc.cluster.local", "instances") not in notes


def test_a_node_that_is_read_looks_like_itself() -> None:
    """Labels one by one; a copy of it counts as read."""
    notes: set[Any] = set()
    node = noted_node(client(app="web"), notes)
    assert isinstance(node, Node)
    assert (node.namespace, node.labels.get("app"), node.labels.get("version")) == ("default", "web", None)
    assert notes == {("namespace",), ("labels", "app"), ("labels", "version")}
    assert replace(node, address="10.0.0.1").address == "10.0.0.1"
    assert ("registrations",) in notes


@pytest.mark.parametrize("change", [{"trust_domain": "other"}, {"root_namespace": "other"}])
def test_where_a_plain_field_of_the_world_differs_nothing_is_kept(change: dict[str, str]) -> None:
    """They go into most resources, and do not change while a control plane runs."""
    old = indexed(World())
    assert Difference(old, replace(old, **change)).total
    assert not Difference(old, replace(old, revision=7)).total


def test_registrations_are_compared_by_value() -> None:
    """Two nodes that announce the same are alike."""
    first, second = (server(registrations=(Registration("reviews", 9080, 1),)) for _ in range(2))
    published = Snapshots(Registry().world({}))
    view = published.current.view(first)
    assert published.current.view(second).names(LISTENER) == view.names(LISTENER)
