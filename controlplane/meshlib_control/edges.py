"""Who talks to whom, and whether it is secured: from what clients follow and what they were told about it.

The library and gRPC's clients follow a destination when it is first called, and no others: what they follow is whom they
talk to. The clusters and endpoints they were sent say whether they do it over mutual TLS. An Envoy follows every service, so
what it follows says nothing, and it has no edges here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshlib.config.messages import TYPE_PREFIX, message

from .model import Node, Resource
from .names import ClusterName, parse_cluster_name
from .translate.resources import CLUSTER, ENDPOINT
from .translate.tls import IN_MESH, TLS_MODE
from .xds.exchange import Entry
from .xds.server import Configuration

FOLLOWS_EVERYTHING: Final = "envoy"
_MATCHING: Final = "envoy.transport_socket_match"


@dataclass(frozen=True, slots=True)
class Edge:
    """A client and a service that it calls.

    Args:
        endpoints: how many the client knows, over all subsets.
        secured: how many of them it calls over mutual TLS.
    """

    client: Node
    host: str
    port: int
    endpoints: int
    secured: int


def edges(configurations: Iterable[Configuration]) -> list[Edge]:
    """All edges, by client, host and port."""
    found = [edge for one in configurations if one.node.kind != FOLLOWS_EVERYTHING for edge in _of_client(one)]
    return sorted(found, key=lambda edge: (edge.client.id, edge.host, edge.port))


def edge_data(edge: Edge) -> dict[str, Any]:
    """An edge as plain data with stable names."""
    return {
        "client": {
            "name": edge.client.instance,
            "namespace": edge.client.namespace,
            "workload": edge.client.workload,
            "identity": edge.client.spiffe_id,
        },
        "service": {"host": edge.host, "port": edge.port},
        "endpoints": edge.endpoints,
        "secured": edge.secured,
        "security": _words(edge),
    }


def _words(edge: Edge) -> str:
    if not edge.endpoints:
        return "no endpoints"
    if edge.secured == edge.endpoints:
        return "mutual TLS"
    return f"mutual TLS to {edge.secured} of {edge.endpoints}" if edge.secured else "plain text"


def _of_client(one: Configuration) -> Iterator[Edge]:
    assignments = {entry.name: _known(entry) for entry in one.entries.get(ENDPOINT, ())}
    reached: dict[tuple[str, int], dict[tuple[str, int], bool]] = defaultdict(dict)
    for name, cluster in _clusters(one.entries.get(CLUSTER, ())):
        endpoints = _endpoints(cluster, assignments)
        secured = _security(cluster)
        reached[name.host, name.port] |= {address: secured(in_mesh) for address, in_mesh in endpoints.items()}
    for (host, port), addresses in reached.items():
        yield Edge(one.node, host, port, len(addresses), sum(addresses.values()))


def _clusters(entries: Iterable[Entry]) -> Iterator[tuple[ClusterName, Any]]:
    for entry in entries:
        name, cluster = parse_cluster_name(entry.name), _known(entry)
        if name is not None and cluster is not None:
            yield name, cluster


def _known(entry: Entry) -> Any:
    """The message that the client holds, or is about to; None: there is none."""
    resource: Resource | None = entry.accepted or entry.wanted
    return None if resource is None else message(resource.type_url.removeprefix(TYPE_PREFIX)).FromString(resource.body)


def _security(cluster: Any) -> Callable[[bool], bool]:
    """Whether an endpoint is called over TLS, given whether it says that it takes it."""
    if cluster.transport_socket_matches:
        return bool
    always = cluster.HasField("transport_socket")
    return lambda _in_mesh: always


def _endpoints(cluster: Any, assignments: Mapping[str, Any]) -> dict[tuple[str, int], bool]:
    """Addresses, and whether each says that it takes mutual TLS."""
    name = cluster.eds_cluster_config.service_name or cluster.name
    assignment = assignments.get(name) if cluster.HasField("eds_cluster_config") else cluster.load_assignment
    groups = assignment.endpoints if assignment is not None else ()
    return {_address(one): _in_mesh(one) for group in groups for one in group.lb_endpoints}


def _address(endpoint: Any) -> tuple[str, int]:
    found = endpoint.endpoint.address.socket_address
    return found.address, found.port_value


def _in_mesh(endpoint: Any) -> bool:
    matching = endpoint.metadata.filter_metadata
    return _MATCHING in matching and matching[_MATCHING].fields[TLS_MODE].string_value == IN_MESH
