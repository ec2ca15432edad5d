from __future__ import annotations

import pytest

from meshlib_control.model import Node, Registration
from meshlib_control.registry import Registry
from tests.support.worlds import host, read, server

REVIEWS = host("reviews")


def changes(registry: Registry) -> list[int]:
    """Grows by one with every change that is announced."""
    seen: list[int] = []
    registry.on_change(lambda: seen.append(len(seen)))
    return seen


def instances(registry: Registry, port: int = 9080) -> tuple[tuple[str, int], ...]:
    service = registry.world({}).services.get(REVIEWS)
    return tuple((one.address, one.port) for one in service.instances[port]) if service else ()


def test_a_registered_node_is_an_instance_of_its_service() -> None:
    """With everything that its node and its credential say."""
    registry = Registry()
    registry.connect("1", server())
    service = registry.world({}).services[REVIEWS]
    (instance,) = service.instances[9080]
    assert (service.namespace, service.external, service.origin) == ("default", False, None)
    assert [(port.number, port.protocol) for port in service.ports] == [(9080, "http")]
    assert (instance.address, instance.port, instance.in_mesh) == ("127.0.0.1", 7001, True)
    assert (instance.name, instance.workload, instance.service_account) == (
        "reviews-v1-7001",
        "reviews-v1",
        "bookinfo-reviews",
    )
    assert instance.labels == {"app": "reviews", "version": "v1"}


def test_the_last_stream_takes_the_instance_away() -> None:
    """Workers of one address and port are one instance."""
    registry = Registry()
    for stream in ("a", "b"):
        registry.connect(stream, server())
    assert instances(registry) == (("127.0.0.1", 7001),)
    registry.disconnect("a")
    assert instances(registry) == (("127.0.0.1", 7001),)
    registry.disconnect("b")
    assert instances(registry) == ()


def test_a_service_without_instances_stays_known() -> None:
    """With every port that it ever had: its host must not count as outside the mesh."""
    registry = Registry()
    registry.connect("a", server(registrations=(Registration("reviews", 9080, 7001), Registration("reviews", 9090, 7002))))
    registry.disconnect("a")
    service = registry.world({}).services[REVIEWS]
    assert [port.number for port in service.ports] == [9080, 9090]
    assert dict(service.instances) == {9080: (), 9090: ()}
    registry.connect("b", server())
    service = registry.world({}).services[REVIEWS]
    assert [port.number for port in service.ports] == [9080, 9090]
    assert instances(registry) == (("127.0.0.1", 7001),)
    assert instances(registry, 9090) == ()
    assert set(registry.world({}).services) == {REVIEWS}


def test_a_withdrawn_registration_leaves_the_service_known() -> None:
    """A server that is about to end describes its node anew, without ports."""
    registry = Registry()
    registry.connect("a", server())
    registry.connect("a", server(registrations=()))
    assert REVIEWS in registry.world({}).services
    assert instances(registry) == ()


def test_a_service_entry_takes_the_place_of_a_service_without_instances() -> None:
    """What is left of a service is not in the way of its successor."""
    registry = Registry()
    registry.connect("a", server())
    registry.disconnect("a")
    entry = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [{REVIEWS}]
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  endpoints: [{{address: 10.0.0.9}}]
"""
    (instance,) = registry.world(read(entry)).services[REVIEWS].instances[9080]
    assert instance.address == "10.0.0.9"


def test_of_different_labels_for_one_address_the_last_announced_counts() -> None:
    """Also when the first announces itself again."""
    registry = Registry()

    def version() -> str:
        return registry.world({}).services[REVIEWS].instances[9080][0].labels["version"]

    registry.connect("a", server(version="v1"))
    registry.connect("b", server(version="v2"))
    assert version() == "v2"
    registry.connect("a", server(version="v1"))
    assert version() == "v1"
    registry.disconnect("a")
    assert version() == "v2"


def test_changes_are_announced_once_and_only_if_something_is_served() -> None:
    """A client that comes and goes changes nothing for others."""
    registry = Registry()
    seen = changes(registry)
    registry.connect("client", server(registrations=()))
    registry.disconnect("client")
    assert seen == []
    registry.connect("a", server())
    registry.connect("a", server())
    assert len(seen) == 1
    registry.connect("a", server(version="v2"))
    assert len(seen) == 2
    registry.connect("a", server(registrations=()))
    assert len(seen) == 3
    registry.disconnect("a")
    registry.disconnect("a")
    assert len(seen) == 3


def test_the_order_of_announcement_does_not_show() -> None:
    """Equal worlds give equal resources, also after everybody reconnected in another order."""
    forward, backward = Registry(), Registry()
    nodes = [server(port=7000 + number) for number in range(3)]
    for number in range(3):
        forward.connect(str(number), nodes[number])
        backward.connect(str(number), nodes[2 - number])
    assert forward.world({}).services == backward.world({}).services


def test_services_of_namespaces_are_different_services() -> None:
    """`reviews` of shop is not `reviews` of default."""
    registry = Registry()
    registry.connect("a", server())
    registry.connect("b", server(namespace="shop", port=7002))
    services = registry.world({}).services
    assert set(services) == {REVIEWS, host("reviews", "shop")}
    assert services[host("reviews", "shop")].instances[9080][0].port == 7002


@pytest.mark.parametrize("protocol", ["HTTP", "http"])
def test_a_service_may_have_several_ports(protocol: str) -> None:
    """Each with its own instances; protocols in lower case."""
    registry = Registry()
    ports = (Registration("reviews", 9080, 7001, protocol), Registration("reviews", 9090, 7002, "grpc"))
    registry.connect("a", server(registrations=ports))
    service = registry.world({}).services[REVIEWS]
    assert [(port.number, port.protocol) for port in service.ports] == [(9080, "http"), (9090, "grpc")]
    assert instances(registry, 9090) == (("127.0.0.1", 7002),)


def test_every_world_is_newer_than_the_one_before_and_frozen() -> None:
    """Readers hold on to theirs."""
    registry = Registry(trust_domain="td", root_namespace="root", domain_suffix="mesh.test")
    node: Node = server()
    registry.connect("a", node)
    first, second = registry.world({}), registry.world({})
    assert first.revision < second.revision
    assert set(first.services) == {"reviews.default.svc.mesh.test"}
    assert (first.trust_domain, first.root_namespace) == ("td", "root")
    with pytest.raises(TypeError):
        first.services["x"] = first.services["reviews.default.svc.mesh.test"]  # type: ignore[index]


def test_objects_are_oldest_first() -> None:
    """The order in which rivals win."""
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME}\nspec: {hosts: [a]}\n---\n"
    items = read(*(head.replace("NAME", name) for name in ("b", "a", "c")))
    world = Registry().world(dict(reversed(items.items())))
    assert [item.key.name for item in world.of_kind("VirtualService")] == ["b", "a", "c"]
    assert world.of_kind("Gateway") == []
