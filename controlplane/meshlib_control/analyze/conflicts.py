"""Objects that get into each other's way: of rivals, one counts and the others do nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from meshlib_control import names
from meshlib_control.analyze.finding import finding
from meshlib_control.kinds import PeerAuthentication, ServiceEntry, VirtualService
from meshlib_control.model import Finding, MeshObject, Severity, World

SAME_HOST = "IST0109"
NO_IMPACT = "IST0167"
PROTOCOLS_DIFFER = "IST0177"


def virtual_services(world: World) -> Iterator[Finding]:
    """Several VirtualServices for one host inside the mesh, visible to the same clients."""
    by_host: dict[str, list[MeshObject]] = defaultdict(list)
    for found in world.of_kind("VirtualService"):
        if isinstance(found.spec, VirtualService) and (not found.spec.gateways or "mesh" in found.spec.gateways):
            for host in dict.fromkeys(found.spec.hosts):
                by_host[names.resolve(host, found.key.namespace, world.domain_suffix)].append(found)
    for host, rivals in by_host.items():
        for found in rivals:
            others = [other for other in rivals if other is not found and _meet(found, other)]
            if others:
                together = ", ".join(sorted(str(one.key) for one in (found, *others)))
                message = f"{together} are all for the host {host} inside the mesh: only one of them counts"
                advice = "write their http rules into a single VirtualService"
                yield finding(SAME_HOST, Severity.ERROR, found, "spec.hosts", message, advice)


def _meet(one: MeshObject, other: MeshObject) -> bool:
    mine, theirs = _clients(one), _clients(other)
    return "*" in mine or "*" in theirs or bool(mine & theirs)


def _clients(found: MeshObject) -> set[str]:
    values = found.spec.export_to or ("*",)
    return {found.key.namespace if value == "." else value for value in values}


def peer_authentications(world: World) -> Iterator[Finding]:
    """Policies of which an older one for the same workloads counts, or that Istio does not look at."""
    oldest: dict[tuple[str, frozenset[tuple[str, str]]], MeshObject] = {}
    for found in world.of_kind("PeerAuthentication"):
        if not isinstance(found.spec, PeerAuthentication):
            continue
        wanted = frozenset(found.spec.selector.match_labels.items()) if found.spec.selector else frozenset()
        if wanted and found.key.namespace == world.root_namespace:
            message = "The policy has no impact: a selector in the root namespace selects nothing"
            yield finding(
                NO_IMPACT, Severity.WARNING, found, "spec.selector", message, "write it into the workload's namespace"
            )
            continue
        first = oldest.setdefault((found.key.namespace, wanted), found)
        if first is not found:
            message = f"The policy has no impact: {first.key} is for the same workloads and older"
            yield finding(NO_IMPACT, Severity.WARNING, found, "", message, "remove one of the two")


def service_entries(world: World) -> Iterator[Finding]:
    """One host and port, declared with two protocols."""
    first: dict[tuple[str, int], tuple[str, MeshObject]] = {}
    for found in world.of_kind("ServiceEntry"):
        if not isinstance(found.spec, ServiceEntry):
            continue
        for host in found.spec.hosts:
            for index, port in enumerate(found.spec.ports):
                protocol, other = first.setdefault((host, port.number), (port.protocol.upper(), found))
                if protocol != port.protocol.upper():
                    message = f"{other.key} declares {host}:{port.number} with protocol {protocol or 'TCP'}: that one counts"
                    yield finding(PROTOCOLS_DIFFER, Severity.WARNING, found, f"spec.ports[{index}].protocol", message)
