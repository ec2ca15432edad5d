"""The answer to "may this caller do this": decided by the library's own engine on the very listeners that servers get.

An Envoy decides the same, and so does a grpcio server on the policies as they are made for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from meshlib.config.decode import TYPE_URLS, decode
from meshlib.config.model import Origin, PeerMode
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind
from meshlib.errors import IdentityError
from meshlib.facts import Peer, Request
from meshlib.identity.spiffe import SpiffeId
from meshlib.inbound.admit import admission, port_of
from meshlib.inbound.visit import Denied, Permit, Visit

from . import names
from .explaining import BadQuestion, origin_data
from .model import Node, Registration, World
from .names import ClusterName
from .snapshots import Snapshot


def check_access(
    world: World, nodes: Sequence[Node], request: Request, peer: Peer, namespace: str, now: float
) -> list[dict[str, Any]]:
    """What each instance that serves the request's host and port answers; empty if nobody serves it.

    Args:
        peer: who asks. Where a port takes plain text only, nobody knows who that is.
        namespace: where the caller is: short names of hosts mean something in it.
        now: seconds since the epoch.
    """
    return [
        _decision(world, node, entry, request, peer, now)
        for node, entry in _servers(world, nodes, request.authority, namespace)
    ]


def peer_called(name: str, namespace: str, trust_domain: str, address: str) -> Peer:
    """A peer by its SPIFFE id, `namespace/account` or account; without a name one that shows no certificate.

    Raises:
        BadQuestion: the address is none, or nobody can have such a name.
    """
    try:
        ip = ip_address(address)
    except ValueError as error:
        raise BadQuestion(f"{address!r} is no IP address", field="address") from error
    return Peer(_proven(name, namespace, trust_domain), f"[{ip}]:0" if ip.version == 6 else f"{ip}:0")


def _proven(name: str, namespace: str, trust_domain: str) -> str:
    if not name:
        return ""
    where, _, account = name.rpartition("/")
    try:
        return str(SpiffeId.parse(name) if "://" in name else SpiffeId(trust_domain, where or namespace, account))
    except IdentityError as error:
        raise BadQuestion(f"{error}; write ACCOUNT, NAMESPACE/ACCOUNT or a SPIFFE id", field="from") from error


def served_at(nodes: Sequence[Node], authority: str) -> list[str]:
    """Where a service of the name that a host begins with is served, as `reviews.default:9080`; for advice."""
    name = authority.partition(":")[0].partition(".")[0].lower()
    places = {(entry.service, node.namespace, entry.port) for node in nodes for entry in node.registrations}
    return sorted(f"{service}.{namespace}:{port}" for service, namespace, port in places if service.partition(".")[0] == name)


def _servers(world: World, nodes: Sequence[Node], authority: str, namespace: str) -> Iterator[tuple[Node, Registration]]:
    parsed = names.parse_host_port(authority, names.DEFAULT_PORT)
    if parsed is None:
        return
    host, port = parsed
    meant = names.candidates(host, namespace, world.domain_suffix)
    for node in nodes:
        for entry in node.registrations:
            served = names.service_hostname(entry.service, node.namespace, world.domain_suffix)
            if entry.port == port and served in meant:
                yield node, entry


def _decision(world: World, node: Node, entry: Registration, request: Request, peer: Peer, now: float) -> dict[str, Any]:
    listener = _listener(world, node, entry.target_port)
    seen = replace(peer, spiffe_id="") if listener.mode is PeerMode.DISABLE else peer
    visit = _visit(world, node, entry, request, seen, now)
    found = _decided(listener, visit)
    return {
        "instance": node.instance,
        "workload": node.workload,
        "namespace": node.namespace,
        "mode": listener.mode.value,
        **_told(found, visit, listener),
    }


def _listener(world: World, node: Node, port: int) -> InboundListener:
    """As the library would get it; for grpcio as it gets it, as some policies are stricter there."""
    asking = node if node.kind == "grpc" else replace(node, kind="library")
    found = Snapshot(world).view(asking).resource(TYPE_URLS[Kind.LISTENER], names.inbound_name(node.address, port))
    assert found is not None
    listener = decode(Kind.LISTENER, found.body)
    assert isinstance(listener, InboundListener)
    return listener


def _visit(world: World, node: Node, entry: Registration, request: Request, peer: Peer, now: float) -> Visit:
    host = names.service_hostname(entry.service, node.namespace, world.domain_suffix)
    name = ClusterName(entry.port, "", host).sni if peer.secured else ""
    return Visit(request, peer, f"{node.address}:{entry.target_port}", name, now)


def _decided(listener: InboundListener, visit: Visit) -> Permit | Denied | None:
    """None: somebody else has to be asked."""
    asking = admission(port_of(listener), visit)
    try:
        next(asking)
    except StopIteration as done:
        found: Permit | Denied = done.value
        return found
    asking.close()
    return None


def _told(found: Permit | Denied | None, visit: Visit, listener: InboundListener) -> dict[str, Any]:
    if found is None:
        return {"decision": "ask", "status": 0, "policy": "", "reason": "an external authorizer decides", "origin": None}
    if isinstance(found, Permit):
        return {"decision": "allow", "status": 0, "policy": "", "reason": "; ".join(map(str, visit.dry_runs)), "origin": None}
    near = found.closest(visit) if found.closest else None
    return {
        "decision": "deny",
        "status": found.status,
        "policy": found.policy,
        "closest": near.policy if near else "",
        "reason": "; ".join([found.reason, *([str(near)] if near else []), *map(str, visit.dry_runs)]),
        "origin": origin_data(_origin(listener, visit, near.policy if near else found.policy)),
    }


def _origin(listener: InboundListener, visit: Visit, policy: str) -> Origin | None:
    if listener.mode is PeerMode.STRICT and not visit.peer.secured:
        return listener.origin  # refused before any policy was asked
    return listener.origins.get(policy) if policy else None
