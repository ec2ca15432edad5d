"""Clusters (CDS): a port of a service, or of a subset of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from meshlib.config.messages import message
from meshlib.config.model import PeerMode
from meshlib_control.kinds.destination_rule import ClientTls
from meshlib_control.model import Instance, Node, ObjectKey, Resolution, Resource, Service, World
from meshlib_control.names import ClusterName, parse_cluster_name
from meshlib_control.translate import tls
from meshlib_control.translate.build import ADS, duration, origin_metadata, resource, struct
from meshlib_control.translate.destination_rule import Policy, RuleSet, rules_for
from meshlib_control.translate.endpoint_group import load_assignment
from meshlib_control.translate.envoy import clusters as envoy
from meshlib_control.translate.envoy import tls as envoy_tls
from meshlib_control.translate.peer_authentication import PeerRule, peer_rule
from meshlib_control.translate.protection import protection
from meshlib_control.translate.scope import selects, service_visible
from meshlib_control.translate.trust_domains import trust_domains

CONNECT_TIMEOUT = 10.0  # seconds; Istio's default
DNS_REFRESH = 60.0  # seconds; Istio's default where the answer has no time to live

# No certificate can carry this name: a cluster whose instances are all gone trusts nobody instead of everybody.
NOBODY = "spiffe://{trust_domain}/nobody"


class Security(Enum):
    """How a client speaks to a cluster."""

    PLAIN = "plain text"
    AUTOMATIC = "mutual TLS with each endpoint that can"  # Istio: auto mTLS
    MUTUAL = "mutual TLS with all"  # a DestinationRule says ISTIO_MUTUAL
    REFUSED = "TLS that is not effective yet"  # a DestinationRule says SIMPLE or MUTUAL; plain text would betray it


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster name that exists for a client, and everything that is said about it."""

    name: ClusterName
    service: Service
    rules: RuleSet
    policy: Policy

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The endpoints: the port's instances that the subset selects."""
        placed = self.rules.subset(self.name.subset)
        labels = placed.subset.labels if placed else {}
        everyone = self.service.instances.get(self.name.port, ())
        return tuple(instance for instance in everyone if selects(labels, instance.labels))

    @property
    def security(self) -> Security:
        """Auto mutual TLS unless a DestinationRule speaks."""
        spoken: ClientTls | None = self.policy.tls
        if spoken is not None:
            return _SPOKEN.get(spoken.mode, Security.REFUSED)
        inside = not self.service.external and self.service.resolution is Resolution.STATIC
        return Security.AUTOMATIC if inside else Security.PLAIN

    @property
    def protocol(self) -> str:
        """What the port speaks, in lower case."""
        return next(port.protocol for port in self.service.ports if port.number == self.name.port)

    @property
    def discovery(self) -> str:
        """Envoy's cluster type."""
        if self.service.resolution is Resolution.NONE or self.balancing == "PASSTHROUGH":
            return "ORIGINAL_DST"
        return _DISCOVERY[self.service.resolution]

    @property
    def balancing(self) -> str:
        """Istio's name of the load balancing: LEAST_REQUEST unless a DestinationRule says otherwise."""
        chosen = self.policy.load_balancer.simple if self.policy.load_balancer else None
        return _BALANCING.get(chosen or "", chosen or "LEAST_REQUEST")

    @property
    def sources(self) -> tuple[ObjectKey, ...]:
        """The objects that it was made from."""
        return (*((self.service.origin,) if self.service.origin else ()), *self.rules.sources)


_SPOKEN = {
    "DISABLE": Security.PLAIN,
    "ISTIO_MUTUAL": Security.MUTUAL,
}
_DISCOVERY = {
    Resolution.STATIC: "EDS",
    Resolution.DNS: "STRICT_DNS",
    Resolution.DNS_ROUND_ROBIN: "LOGICAL_DNS",
}
_BALANCING = {"": "LEAST_REQUEST", "UNSPECIFIED": "LEAST_REQUEST", "LEAST_CONN": "LEAST_REQUEST"}


def target(world: World, node: Node, name: str) -> Target | None:
    """What a cluster name means for a client; None if there is no such service, port or subset for it."""
    parsed = parse_cluster_name(name)
    service = world.services.get(parsed.host) if parsed else None
    if parsed is None or service is None or not service_visible(world, service, node.namespace):
        return None
    if parsed.port not in {port.number for port in service.ports}:
        return None
    rules = rules_for(world, node, service)
    if parsed.subset and rules.subset(parsed.subset) is None:
        return None
    return Target(parsed, service, rules, rules.policy_for(parsed.port, parsed.subset))


@dataclass(frozen=True, slots=True)
class JudgedEndpoint:
    """An endpoint, whether clients speak mutual TLS with it, and the rule of its own side that decided."""

    instance: Instance
    secured: bool
    rule: PeerRule


def judged_endpoints(world: World, found: Target) -> list[JudgedEndpoint]:
    """The endpoints of a cluster, each with how to speak to it."""
    rules = (peer_rule(world, one.namespace, one.labels, one.port) for one in found.instances)
    return [
        JudgedEndpoint(instance, _speaks_tls(found.security, instance, rule.mode), rule)
        for instance, rule in zip(found.instances, rules, strict=True)
    ]


def _speaks_tls(security: Security, instance: Instance, mode: PeerMode) -> bool:
    if security is Security.MUTUAL:
        return True
    if security is not Security.AUTOMATIC or not instance.in_mesh:
        return False
    # Istio: mtls_checker. The server's own word decides, endpoint by endpoint.
    return mode is PeerMode.STRICT or (mode is PeerMode.PERMISSIVE and instance.permissive)


def cluster(world: World, node: Node, name: str) -> Resource | None:
    """The cluster of a name; None if it does not exist for this client: its requests fail with NC."""
    found = target(world, node, name)
    if found is None or found.security is Security.REFUSED or (node.kind == "grpc" and not _known_to_grpc(found)):
        return None
    body = message("envoy.config.cluster.v3.Cluster")(
        name=name,
        connect_timeout=duration(_connect_timeout(found.policy)),
        metadata=_metadata(found),
        **_discovery(found, node),
        **_transport(world, node, found),
        **protection(node, found.policy, found.protocol),
    )
    return resource(name, body, found.sources)


def _known_to_grpc(found: Target) -> bool:
    """gRPC's clients reject clusters that go where the request says, and several names to look up in one (gRFC A37)."""
    return found.discovery == "EDS" or (found.discovery != "ORIGINAL_DST" and len(found.instances) == 1)


def _connect_timeout(policy: Policy) -> float:
    tcp = policy.connection_pool.tcp if policy.connection_pool else None
    return tcp.connect_timeout if tcp and tcp.connect_timeout else CONNECT_TIMEOUT


def _discovery(found: Target, node: Node) -> dict[str, Any]:
    kind = found.discovery
    if kind == "ORIGINAL_DST":
        return {"type": kind, "lb_policy": "CLUSTER_PROVIDED"}
    # grpcio knows neither STRICT_DNS nor LEAST_REQUEST and rejects the resource.
    balancing = "ROUND_ROBIN" if node.kind == "grpc" else found.balancing
    if kind == "EDS":
        eds = {"eds_config": ADS, "service_name": str(found.name)}
        return {"type": kind, "lb_policy": balancing, "eds_cluster_config": eds}
    return {
        "type": "LOGICAL_DNS" if node.kind == "grpc" else kind,
        "lb_policy": balancing,
        "dns_refresh_rate": duration(DNS_REFRESH),
        "respect_dns_ttl": True,
        "load_assignment": load_assignment(str(found.name), ((instance, False) for instance in found.instances)),
    }


def _transport(world: World, node: Node, found: Target) -> dict[str, Any]:
    security = found.security
    if node.kind == "grpc":
        secured = tls.upstream_socket(found.name, _peers(world, found), grpc=True)
        return {"transport_socket": secured} if _all_speak_tls(world, found) else {}
    if security is Security.PLAIN:
        return {}
    secured = _secured(node, found, _peers(world, found))
    return {
        "transport_socket_matches": [
            {
                "name": "tlsMode-istio",
                "match": struct({tls.TLS_MODE: tls.IN_MESH}),
                "transport_socket": secured,
            },
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": tls.raw_socket()},
        ]
    }


def _all_speak_tls(world: World, found: Target) -> bool:
    """gRPC's clients know no transport_socket_matches: it is mutual TLS with all endpoints of a cluster, or with none.

    Istio gives it where a DestinationRule asks for it only. Here it is automatic, as for all other clients, so that STRICT on
    the server's side is enough.
    """
    if found.security is not Security.AUTOMATIC:
        return found.security is Security.MUTUAL
    judged = judged_endpoints(world, found)
    return bool(judged) and all(endpoint.secured for endpoint in judged)


def _secured(node: Node, found: Target, peers: set[str]) -> dict[str, Any]:
    if node.kind == "envoy":
        return envoy_tls.upstream_socket(node, found.name, peers, http2=found.protocol in envoy.HTTP2_PROTOCOLS)
    return tls.upstream_socket(found.name, peers)


def _peers(world: World, found: Target) -> set[str]:
    """Who may answer: the accounts of all the service's instances, and what its ServiceEntry or the rule adds (Istio)."""
    accounts = {
        tls.spiffe_id(domain, instance.namespace, instance.service_account)
        for domain in trust_domains(world)
        for instances in found.service.instances.values()
        for instance in instances
        if instance.service_account
    }
    spoken = found.policy.tls.subject_alt_names if found.policy.tls else ()
    peers = set(spoken) or accounts | found.service.subject_alt_names
    return peers or {NOBODY.format(trust_domain=world.trust_domain)}


def _metadata(found: Target) -> dict[str, Any]:
    placed = found.rules.subset(found.name.subset)
    if placed is not None:
        return origin_metadata(placed.item, placed.field)
    if found.rules.policy_item is not None:
        return origin_metadata(found.rules.policy_item, "spec.trafficPolicy")
    return origin_metadata(found.rules.items[0], "spec") if found.rules.items else {}
