"""Clusters, endpoints, listeners: what is made for which kind of client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshlib.config.decode import decode
from meshlib.config.messages import message, unpack
from meshlib.config.model import Locality
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind
from meshlib_control.kinds.mesh_config import MeshConfig
from meshlib_control.model import Registration
from meshlib_control.names import inbound_name
from meshlib_control.translate import TYPES, translate, wildcard_names
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests.support.worlds import (
    REVIEWS,
    client,
    cluster,
    decoded,
    endpoints,
    host,
    listener,
    outbound,
    server,
    world,
)

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy: POLICY
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
"""


def rule(policy: str = "{}") -> str:
    return RULE.replace("POLICY", policy)


def peer_authentication(mode: str, labels: str = "") -> str:
    selector = f"selector: {{matchLabels: {{{labels}}}}}, " if labels else ""
    head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\n"
    return f"{head}spec: {{{selector}mtls: {{mode: {mode}}}}}\n---\n"


def service_entry(spec: str, name: str = "entry", namespace: str = "default") -> str:
    head = f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    return f"{head}spec: {{{spec}}}\n---\n"


HTTP_80 = "ports: [{number: 80, name: http, protocol: HTTP}]"


def tls_of(found: Any) -> Any:
    return unpack(found.transport_socket_matches[0].transport_socket.typed_config)


def marked(found: dict[int, Any]) -> dict[int, bool]:
    """Which ports are marked as speaking mutual TLS."""
    return {
        port: endpoint.metadata.filter_metadata["envoy.transport_socket_match"].fields["tlsMode"].string_value == "istio"
        if "envoy.transport_socket_match" in endpoint.metadata.filter_metadata
        else False
        for port, endpoint in found.items()
    }


# Listeners


@pytest.mark.parametrize("name", ["reviews", "reviews.default", "reviews.default.svc", host("reviews"), "REVIEWS"])
def test_a_listener_is_found_by_every_spelling_and_named_as_asked(name: str) -> None:
    """The route configuration is the same for all."""
    found = listener(world(), f"{name}:9080")
    assert found is not None
    assert found.name == f"{name}:9080"
    manager = unpack(found.api_listener.api_listener)
    assert manager.rds.route_config_name == outbound("reviews")
    assert [entry.name for entry in manager.http_filters] == ["envoy.filters.http.fault", "envoy.filters.http.router"]


@pytest.mark.parametrize("name", ["reviews:81", "nowhere:9080", "reviews", "", ":", "127.0.0.1:80", "x\0y:80"])
def test_what_the_mesh_does_not_know_has_no_listener(name: str) -> None:
    """The client goes there by itself."""
    assert listener(world(), name) is None


def test_a_short_name_is_the_clients_own_namespace() -> None:
    """Another namespace must be named."""
    found = world()
    assert listener(found, "reviews:9080", client("bank")) is None
    assert listener(found, "reviews.default:9080", client("bank")) is not None


def test_ports_that_do_not_speak_http_are_left_to_the_client() -> None:
    """TCP and TLS have no routes."""
    database = server("mongo", registrations=(Registration("mongo", 27017, 27017, "mongo"),))
    assert listener(world(nodes=(database,)), "mongo:27017") is None


def test_a_wildcard_service_answers_for_its_hosts() -> None:
    """The most specific one."""
    entries = service_entry(f'hosts: ["*.foo.com"], {HTTP_80}', "wide") + service_entry(
        f'hosts: ["*.a.foo.com"], {HTTP_80}', "a"
    )
    found = listener(world(entries), "x.a.foo.com:80")
    assert found is not None
    assert unpack(found.api_listener.api_listener).rds.route_config_name == "outbound|80||*.a.foo.com"


# Clusters


def test_a_cluster_takes_endpoints_by_eds_and_balances_by_least_request() -> None:
    """Istio's defaults."""
    found = cluster(world())
    assert found is not None
    kind = message("envoy.config.cluster.v3.Cluster")
    assert kind.DiscoveryType.Name(found.type) == "EDS"
    assert kind.LbPolicy.Name(found.lb_policy) == "LEAST_REQUEST"
    assert found.eds_cluster_config.service_name == found.name == outbound("reviews")
    assert found.eds_cluster_config.eds_config.HasField("ads")
    assert found.connect_timeout.seconds == 10


@pytest.mark.parametrize(
    ("simple", "expected"),
    [
        ("ROUND_ROBIN", "ROUND_ROBIN"),
        ("RANDOM", "RANDOM"),
        ("LEAST_CONN", "LEAST_REQUEST"),
        ("UNSPECIFIED", "LEAST_REQUEST"),
        ("PASSTHROUGH", "CLUSTER_PROVIDED"),
    ],
)
def test_balancing(simple: str, expected: str) -> None:
    """LEAST_CONN is the old name; PASSTHROUGH goes to where the request says."""
    found = cluster(world(rule(f"{{loadBalancer: {{simple: {simple}}}}}")), subset="v1")
    assert found is not None
    kind = message("envoy.config.cluster.v3.Cluster")
    assert kind.LbPolicy.Name(found.lb_policy) == expected
    assert (kind.DiscoveryType.Name(found.type) == "ORIGINAL_DST") is (simple == "PASSTHROUGH")


def test_a_subset_exists_if_a_rule_names_it() -> None:
    """Otherwise the route's cluster is not there: 503 NC."""
    assert cluster(world(), subset="v1") is None
    assert cluster(world(rule()), subset="v1") is not None
    assert cluster(world(rule()), subset="v9") is None


def test_a_cluster_says_which_rule_made_it() -> None:
    """Object, file and line; and the resource names its sources."""
    found = world(rule())
    made = cluster(found, subset="v2")
    assert made is not None
    facts = made.metadata.filter_metadata["meshlib"].fields
    assert facts["object"].string_value == "DestinationRule default/reviews"
    assert (facts["field"].string_value, facts["line"].number_value) == ("spec.subsets[1]", 10)
    resource = translate(found, client(), CLUSTER, outbound("reviews", subset="v2"))
    assert resource is not None
    assert [str(key) for key in resource.sources] == ["DestinationRule default/reviews"]


def test_mutual_tls_names_who_may_answer_and_the_sni() -> None:
    """The accounts of the service's instances, exactly."""
    found = cluster(world(rule()), subset="v2")
    assert found is not None
    context = tls_of(found)
    assert context.sni == "outbound_.9080_.v2_.reviews.default.svc.cluster.local"
    assert list(context.common_tls_context.alpn_protocols) == ["istio-http/1.1", "istio", "http/1.1"]
    validation = context.common_tls_context.combined_validation_context
    matchers = validation.default_validation_context.match_typed_subject_alt_names
    assert [matcher.matcher.exact for matcher in matchers] == ["spiffe://cluster.local/ns/default/sa/bookinfo-reviews"]
    assert validation.validation_context_sds_secret_config.name == "ROOTCA"
    assert found.transport_socket_matches[0].match.fields["tlsMode"].string_value == "istio"
    assert found.transport_socket_matches[1].name == "tlsMode-disabled"


def test_servers_of_the_meshs_former_name_may_answer() -> None:
    """While a mesh changes its name some have certificates of the new one, some of the old one."""
    found = cluster(replace(world(rule()), trust_domain="new.example", mesh=MeshConfig(trust_domain_aliases=("old",))))
    assert found is not None
    validation = tls_of(found).common_tls_context.combined_validation_context.default_validation_context
    names = [matcher.matcher.exact for matcher in validation.match_typed_subject_alt_names]
    assert names == [f"spiffe://{domain}/ns/default/sa/bookinfo-reviews" for domain in ("new.example", "old")]


def test_a_port_takes_members_of_the_mesh_and_of_its_former_name() -> None:
    """By prefix, as Istio tells Envoy."""
    known = replace(world(), mesh=MeshConfig(trust_domain_aliases=("old",)))
    node = replace(client(), address="192.0.2.7")
    found = translate(known, node, LISTENER, "xds.istio.io/grpc/lds/inbound/192.0.2.7:9080")
    assert found is not None
    decoded_by_the_library = decode(Kind.LISTENER, found.body)
    assert isinstance(decoded_by_the_library, InboundListener)
    assert decoded_by_the_library.trust_domains == {"cluster.local", "old"}


def test_a_cluster_without_known_accounts_trusts_nobody() -> None:
    """An empty list would accept every certificate of the mesh."""
    text = service_entry(f"hosts: [in.mesh], {HTTP_80}, location: MESH_INTERNAL, resolution: STATIC")
    found = cluster(world(text), "in.mesh", port=80)
    assert found is not None
    validation = tls_of(found).common_tls_context.combined_validation_context.default_validation_context
    assert [matcher.matcher.exact for matcher in validation.match_typed_subject_alt_names] == ["spiffe://cluster.local/nobody"]


def test_tls_disabled_by_a_rule_is_plain_text() -> None:
    """The rule beats auto mutual TLS."""
    found = world(rule("{tls: {mode: DISABLE}}"))
    made = cluster(found)
    assert made is not None
    assert not made.transport_socket_matches
    assert set(marked(endpoints(found)).values()) == {False}


@pytest.mark.parametrize("mode", ["SIMPLE", "MUTUAL"])
def test_tls_that_is_not_effective_yet_is_never_plain_text(mode: str) -> None:
    """Whoever asks for TLS would be betrayed by plain text: there is no cluster until it can be done."""
    certificates = ", clientCertificate: /a, privateKey: /b" if mode == "MUTUAL" else ""
    assert cluster(world(rule(f"{{tls: {{mode: {mode}{certificates}}}}}"))) is None


def test_istio_mutual_by_a_rule_holds_for_every_endpoint() -> None:
    """Also for those whose server says DISABLE: then the connection fails, as asked for."""
    found = world(rule("{tls: {mode: ISTIO_MUTUAL}}"), peer_authentication("DISABLE"))
    assert set(marked(endpoints(found)).values()) == {True}


def test_grpc_gets_what_grpcio_accepts() -> None:
    """ROUND_ROBIN, certificate providers, the deprecated list of names."""
    found = cluster(world(), node=client(kind="grpc"))
    assert found is not None
    assert message("envoy.config.cluster.v3.Cluster").LbPolicy.Name(found.lb_policy) == "ROUND_ROBIN"
    assert not found.transport_socket_matches
    common = unpack(found.transport_socket.typed_config).common_tls_context
    assert common.tls_certificate_provider_instance.instance_name == "default"
    assert not common.tls_certificate_sds_secret_configs
    assert [name.exact for name in common.validation_context.match_subject_alt_names] == [
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    ]


# Endpoints


def test_a_subset_holds_the_instances_with_its_labels() -> None:
    """v1 is v1."""
    found = world(rule())
    assert set(endpoints(found)) == {7001, 7002, 7003}
    assert set(endpoints(found, subset="v1")) == {7001}


def test_an_endpoint_tells_its_workload() -> None:
    """In Istio's form, and in ours."""
    endpoint = endpoints(world())[7002]
    facts = endpoint.metadata.filter_metadata
    assert facts["istio"].fields["workload"].string_value == "reviews-v2;default;reviews;v2;Kubernetes"
    assert facts["meshlib"].fields["instance"].string_value == "reviews-v2-7002"
    assert facts["meshlib"].fields["service_account"].string_value == "bookinfo-reviews"
    assert facts["meshlib"].fields["labels"].struct_value.fields["version"].string_value == "v2"


def test_the_servers_own_policy_decides_about_mutual_tls() -> None:
    """Endpoint by endpoint."""
    found = world(peer_authentication("DISABLE", "version: v2"))
    assert marked(endpoints(found)) == {7001: True, 7002: False, 7003: True}
    resource = translate(found, client(), ENDPOINT, outbound("reviews"))
    assert resource is not None
    assert [str(key) for key in resource.sources] == ["PeerAuthentication default/p"]


def test_endpoints_are_grouped_by_locality_and_every_group_has_a_weight() -> None:
    """grpcio drops groups without one."""
    here, there = Locality("eu", "a"), Locality("us", "b")
    nodes = [server(port=7000 + number, locality=here if number < 3 else there) for number in range(1, 4)]
    assignment = decoded(translate(world(nodes=nodes), client(), ENDPOINT, outbound("reviews")))
    groups = {group.locality.region: group for group in assignment.endpoints}
    assert {region: group.load_balancing_weight.value for region, group in groups.items()} == {"eu": 2, "us": 1}
    assert {region: len(group.lb_endpoints) for region, group in groups.items()} == {"eu": 2, "us": 1}


def test_a_subset_without_instances_is_an_empty_assignment() -> None:
    """The cluster exists: 503 UH, not NC."""
    found = world(rule(), nodes=REVIEWS[1:])
    resource = translate(found, client(), ENDPOINT, outbound("reviews", subset="v1"))
    assert not decoded(resource).endpoints


def test_a_cluster_that_does_not_exist_has_no_assignment() -> None:
    """Neither has one that looks its endpoints up."""
    text = service_entry(f"hosts: [www.g.com], {HTTP_80}, resolution: DNS")
    for name in (outbound("reviews", subset="v9"), outbound("www.g.com", 80), "garbage"):
        assert translate(world(text), client(), ENDPOINT, name) is None


# ServiceEntry


def test_dns_resolution_puts_the_names_into_the_cluster() -> None:
    """Without endpoints, the host itself."""
    text = service_entry(f"hosts: [www.g.com], {HTTP_80}, resolution: DNS")
    found = cluster(world(text), "www.g.com", port=80)
    assert found is not None
    assert message("envoy.config.cluster.v3.Cluster").DiscoveryType.Name(found.type) == "STRICT_DNS"
    address = found.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value) == ("www.g.com", 80)
    assert not found.transport_socket_matches
    assert listener(world(text), "www.g.com:80") is not None


@pytest.mark.parametrize(
    ("resolution", "kind", "expected"),
    [
        ("DNS_ROUND_ROBIN", "library", "LOGICAL_DNS"),
        ("DNS", "grpc", "LOGICAL_DNS"),
        ("NONE", "library", "ORIGINAL_DST"),
        ("STATIC", "library", "EDS"),
    ],
)
def test_resolution(resolution: str, kind: str, expected: str) -> None:
    """grpcio rejects STRICT_DNS."""
    text = service_entry(f"hosts: [www.g.com], {HTTP_80}, resolution: {resolution}")
    found = cluster(world(text), "www.g.com", port=80, node=client(kind=kind))
    assert found is not None
    assert message("envoy.config.cluster.v3.Cluster").DiscoveryType.Name(found.type) == expected


def test_static_endpoints_have_ports_labels_weight_and_locality() -> None:
    """A named port of the endpoint beats targetPort beats the number."""
    text = service_entry(
        "hosts: [db.shop], location: MESH_INTERNAL, resolution: STATIC, "
        "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], endpoints: ["
        "{address: 10.0.0.1, ports: {http: 9999}, labels: {version: v1}, weight: 3, locality: eu/a/1, serviceAccount: db}, "
        "{address: 10.0.0.2, labels: {security.istio.io/tlsMode: istio}}]"
    )
    found = world(text)
    assignment = decoded(translate(found, client(), ENDPOINT, outbound("db.shop", 80)))
    by_address = {
        endpoint.endpoint.address.socket_address.address: (group, endpoint)
        for group in assignment.endpoints
        for endpoint in group.lb_endpoints
    }
    group, first = by_address["10.0.0.1"]
    assert (group.locality.region, group.locality.zone, group.locality.sub_zone) == ("eu", "a", "1")
    assert first.endpoint.address.socket_address.port_value == 9999
    assert first.load_balancing_weight.value == 3
    assert marked(endpoints(found, "db.shop", port=80)) == {9999: False, 8080: True}
    made = cluster(found, "db.shop", port=80)
    assert made is not None
    names = tls_of(made).common_tls_context.combined_validation_context.default_validation_context
    assert [name.matcher.exact for name in names.match_typed_subject_alt_names] == ["spiffe://cluster.local/ns/default/sa/db"]


def test_a_workload_selector_selects_registered_processes_and_workload_entries() -> None:
    """Of the entry's own namespace."""
    workload = (
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: default}\n"
        "spec: {address: 10.9.9.9, labels: {app: reviews}}\n---\n"
    )
    ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]"
    text = service_entry(
        f"hosts: [all.reviews], {ports}, location: MESH_INTERNAL, resolution: STATIC, "
        "workloadSelector: {labels: {app: reviews}}"
    )
    others = (server("ratings"), server(namespace="shop", address="10.1.1.1"))
    nodes = (server(address="10.0.0.1"), *others)
    instances = world(text, workload, nodes=nodes).services["all.reviews"].instances[80]
    assert sorted((one.address, one.port, one.in_mesh) for one in instances) == [
        ("10.0.0.1", 8080, True),
        ("10.9.9.9", 8080, False),
    ]


def test_a_private_service_is_not_there_for_other_namespaces() -> None:
    """exportTo of a ServiceEntry."""
    text = service_entry(f'hosts: [www.g.com], {HTTP_80}, resolution: DNS, exportTo: ["."]')
    found = world(text)
    assert listener(found, "www.g.com:80") is not None
    assert listener(found, "www.g.com:80", client("bank")) is None
    assert cluster(found, "www.g.com", port=80, node=client("bank")) is None


def test_the_older_entry_and_the_registered_service_win() -> None:
    """But ports that the winner lacks are added to a registered service."""
    ports = "ports: [{number: 9080, name: http, protocol: HTTP}, {number: 80, name: http-80, protocol: HTTP}]"
    text = service_entry(f"hosts: [{host('reviews')}], {ports}, resolution: DNS")
    service = world(text).services[host("reviews")]
    assert service.origin is None
    assert [port.number for port in service.ports] == [9080, 80]
    assert {one.port for one in service.instances[9080]} == {7001, 7002, 7003}
    old = service_entry(f"hosts: [x.com], {HTTP_80}, resolution: STATIC", "old")
    new = service_entry(f"hosts: [x.com], {HTTP_80}, resolution: DNS", "new")
    origin = world(old, new).services["x.com"].origin
    assert origin is not None
    assert origin.name == "old"


# Inbound


@pytest.mark.parametrize(
    ("mode", "kind", "chains"),
    [
        ("STRICT", "library", ["mtls"]),
        ("PERMISSIVE", "library", ["mtls", "plain"]),
        ("DISABLE", "library", ["plain"]),
        ("STRICT", "grpc", ["mtls"]),
        ("PERMISSIVE", "grpc", ["plain"]),
    ],
)
def test_an_inbound_listener_has_a_chain_for_each_way_in(mode: str, kind: str, chains: list[str]) -> None:
    """grpcio cannot do both on one port."""
    node = server(kind=kind)
    found = listener(world(peer_authentication(mode)), inbound_name("127.0.0.1", 7001), node)
    assert found is not None
    assert [chain.name for chain in found.filter_chains] == chains
    for chain in found.filter_chains:
        assert chain.HasField("transport_socket") is (chain.name == "mtls")
        (route,) = unpack(chain.filters[0].typed_config).route_config.virtual_hosts[0].routes
        assert route.HasField("non_forwarding_action")
    if chains[0] == "mtls":
        assert unpack(found.filter_chains[0].transport_socket.typed_config).require_client_certificate.value
    assert found.metadata.filter_metadata["meshlib"].fields["object"].string_value == "PeerAuthentication default/p"


def test_permissive_tells_tls_from_plain_text() -> None:
    """By the transport protocol, as Envoy's TLS inspector names it."""
    found = listener(world(), inbound_name("::1", 7001), server(address="::1"))
    assert found is not None
    assert [chain.filter_chain_match.transport_protocol for chain in found.filter_chains] == ["tls", "raw_buffer"]
    assert found.address.socket_address.address == "::1"


# All types


def test_a_wildcard_is_all_clusters_and_listeners_and_nothing_of_other_types() -> None:
    """Everything it names exists."""
    found, node = world(rule()), server()
    names = wildcard_names(found, node, CLUSTER)
    assert set(names) == {outbound("reviews", subset=subset) for subset in ("", "v1", "v2")}
    listeners = wildcard_names(found, node, LISTENER)
    assert set(listeners) == {f"{host('reviews')}:9080", inbound_name("127.0.0.1", 7001)}
    assert all(translate(found, node, CLUSTER, name) for name in names)
    assert all(translate(found, node, LISTENER, name) for name in listeners)
    assert wildcard_names(found, node, ENDPOINT) == wildcard_names(found, node, ROUTE) == ()


@pytest.mark.parametrize("type_url", [*TYPES, "type.googleapis.com/unknown"])
@pytest.mark.parametrize("name", ["", "|", "outbound|9080||", "*", "\udcff", "xds.istio.io/grpc/lds/inbound/", "a" * 10_000])
def test_garbage_names_do_not_exist(type_url: str, name: str) -> None:
    """And are no error."""
    assert translate(world(), client(), type_url, name) is None
