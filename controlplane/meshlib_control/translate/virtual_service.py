"""VirtualService: which one counts for a client and a host, and its HTTP routes for that client.

Istio: SelectVirtualServices and BuildHTTPRoutesForVirtualService.
Rule 1: of all VirtualServices that name a host, the most specific name wins; of equals the one private to the client's
        namespace, then one exported to it, then a public one; the oldest of those.
Rule 2: match blocks are alternatives; generation stops at the first that matches everything.
Rule 3: port, gateways, sourceLabels and sourceNamespace decide here whether a client gets the route at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlib.config.messages import pack
from meshlib_control import names
from meshlib_control.index import rivals
from meshlib_control.kinds import Destination, VirtualService
from meshlib_control.kinds.virtual_service import HttpMatch, HttpRoute
from meshlib_control.model import MeshObject, Node, World
from meshlib_control.names import ClusterName
from meshlib_control.translate.build import duration, origin_metadata
from meshlib_control.translate.fault import FILTER_NAME, http_fault
from meshlib_control.translate.retry import retry_policy
from meshlib_control.translate.route_match import is_catch_all, route_match
from meshlib_control.translate.scope import selects, visibility

MESH = "mesh"


def virtual_service_for(world: World, host: str, namespace: str) -> MeshObject | None:
    """The VirtualService that decides for clients of a namespace that call a host; None if there is none (rule 1)."""
    for _, items in rivals(world, "VirtualService", host):
        ranked = [(rank, item) for item in items if (rank := _rank(item, namespace)) is not None]
        if ranked:
            return min(ranked, key=lambda entry: entry[0])[1]  # of equals the first, which is the oldest
    return None


def _rank(item: MeshObject, namespace: str) -> int | None:
    if not _on_mesh(item.spec) and not any(MESH in match.gateways for http in item.spec.http for match in http.match):
        return None
    return visibility(item.spec.export_to, item.key.namespace, namespace)


def _on_mesh(spec: VirtualService) -> bool:
    """Whether what names no gateways of its own is for mesh clients."""
    return not spec.gateways or MESH in spec.gateways


def routes(world: World, node: Node, item: MeshObject, port: int) -> list[dict[str, Any]]:
    """The routes of a VirtualService for a client and the port it calls; empty if none is meant for it."""
    found = []
    for index, http in enumerate(item.spec.http):
        if not http.route:
            continue  # redirect, directResponse and delegate: `analyze` reports them as not effective yet
        action = _action(world, item, http, port)
        for match in _matches(node, item.spec, http, port):
            found.append(_route(item, index, http, match, action))
            if is_catch_all(found[-1]["match"]):
                return found
    return found


def _matches(node: Node, spec: VirtualService, http: HttpRoute, port: int) -> Iterator[HttpMatch | None]:
    if not http.match and _on_mesh(spec):
        yield None
    yield from (match for match in http.match if _meant_for(node, spec, match, port))


def _meant_for(node: Node, spec: VirtualService, match: HttpMatch, port: int) -> bool:
    if match.port and match.port != port:
        return False
    if match.gateways:
        # Istio: the source's labels do not count where gateways are named.
        return MESH in match.gateways
    return _on_mesh(spec) and selects(match.source_labels, node.labels) and match.source_namespace in {"", node.namespace}


def _route(item: MeshObject, index: int, http: HttpRoute, match: HttpMatch | None, action: dict[str, Any]) -> dict[str, Any]:
    fault = http_fault(http.fault)
    return {
        "name": ".".join(part for part in (http.name, match.name if match else "") if part),
        "match": route_match(match),
        "route": action,
        "metadata": origin_metadata(item, f"spec.http[{index}]"),
        "typed_per_filter_config": {FILTER_NAME: pack(fault)} if fault else {},
    }


def _action(world: World, item: MeshObject, http: HttpRoute, port: int) -> dict[str, Any]:
    namespace = item.key.namespace
    shares = [(str(_cluster(world, namespace, entry.destination, port)), entry.weight) for entry in http.route]
    if len(shares) > 1:
        shares = [(cluster, weight) for cluster, weight in shares if weight > 0]
    return {**_target(shares), **exchange_limits(http)}


def _target(shares: list[tuple[str, int]]) -> dict[str, Any]:
    if len(shares) == 1:
        return {"cluster": shares[0][0]}
    return {"weighted_clusters": {"clusters": [{"name": name, "weight": {"value": weight}} for name, weight in shares]}}


def exchange_limits(http: HttpRoute | None) -> dict[str, Any]:
    """Timeout and retries. No timeout by default: zero switches Envoy's own 15 s off (Istio)."""
    retry = retry_policy(http.retries if http else None)
    timeout = {"timeout": duration(http.timeout if http and http.timeout else 0)}
    return {**timeout, "retry_policy": retry} if retry else timeout


def _cluster(world: World, namespace: str, destination: Destination, port: int) -> ClusterName:
    """The destination's cluster, whether it exists or not: if not, requests are answered 503 NC (Istio)."""
    host = names.resolve(destination.host, namespace, world.domain_suffix)
    return ClusterName(_destination_port(world, host, destination, port), destination.subset, host)


def _destination_port(world: World, host: str, destination: Destination, port: int) -> int:
    if destination.port is not None:
        return destination.port.number
    service = world.services.get(host)
    return service.ports[0].number if service and len(service.ports) == 1 else port
