"""What an object refers to is there: hosts, subsets, ports, gateways, delegates, workloads.

A world without any service, as that of files alone, says nothing of hosts and workloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshlib_control import names
from meshlib_control.analyze.finding import finding
from meshlib_control.kinds import (
    AuthorizationPolicy,
    Destination,
    DestinationRule,
    PeerAuthentication,
    RequestAuthentication,
    VirtualService,
)
from meshlib_control.kinds.virtual_service import HttpRoute, TcpRoute, TlsRoute
from meshlib_control.mistakes import did_you_mean, item
from meshlib_control.model import Finding, MeshObject, ObjectKey, Service, Severity, World

NOT_FOUND = "IST0101"
PORT_NEEDED = "IST0112"
NO_WORKLOAD = "IST0127"
EMPTY_SUBSET = "IST0173"
UNKNOWN_HOST = "IST0174"


def virtual_service(world: World, found: MeshObject) -> Iterator[Finding]:
    """Everything that a VirtualService names."""
    spec: VirtualService = found.spec
    yield from _hosts(world, found)
    yield from _gateways(world, found)
    for path, target in _targets(spec):
        yield from _destination(world, found, target, path)
    for index, route in enumerate(spec.http):
        yield from _delegate(world, found, route, f"{item('spec.http', index)}.delegate")


def _hosts(world: World, found: MeshObject) -> Iterator[Finding]:
    spec: VirtualService = found.spec
    if not world.services or (spec.gateways and "mesh" not in spec.gateways):
        return
    for index, host in enumerate(spec.hosts):
        full = names.resolve(host, found.key.namespace, world.domain_suffix)
        if not any(names.covers(full, known) or names.covers(known, full) for known in world.services):
            message = f'Referenced host not found: "{host}", so nothing is routed by this rule'
            advice = _near(host, world) or "start the service, or declare it with a ServiceEntry"
            yield finding(NOT_FOUND, Severity.WARNING, found, item("spec.hosts", index), message, advice)


def _gateways(world: World, found: MeshObject) -> Iterator[Finding]:
    known = {(key.namespace, key.name) for key in world.objects if key.kind == "Gateway"}
    for index, name in enumerate(found.spec.gateways):
        namespace, _, short = name.rpartition("/")
        if name == "mesh" or ((namespace or found.key.namespace), short) in known:
            continue
        message = f'Referenced gateway not found: "{name}"'
        advice = did_you_mean(short, [one for _, one in known]) or f"apply the Gateway {name}"
        yield finding(NOT_FOUND, Severity.ERROR, found, item("spec.gateways", index), message, advice)


def _targets(spec: VirtualService) -> Iterator[tuple[str, Destination]]:
    for index, http in enumerate(spec.http):
        path = item("spec.http", index)
        for number, target in enumerate(http.route):
            yield f"{item(f'{path}.route', number)}.destination", target.destination
        if http.mirror is not None:
            yield f"{path}.mirror", http.mirror
        for number, mirror in enumerate(http.mirrors):
            yield f"{item(f'{path}.mirrors', number)}.destination", mirror.destination
    connections: tuple[tuple[str, Sequence[TlsRoute | TcpRoute]], ...] = (("tls", spec.tls), ("tcp", spec.tcp))
    for kind, routes in connections:
        for index, route in enumerate(routes):
            for number, share in enumerate(route.route):
                yield f"spec.{kind}[{index}].route[{number}].destination", share.destination


def _destination(world: World, found: MeshObject, target: Destination, path: str) -> Iterator[Finding]:
    host = names.resolve(target.host, found.key.namespace, world.domain_suffix)
    service = _service(world, host)
    if service is None and world.services:
        message = f'Referenced host not found: "{target.host}"'
        advice = _near(target.host, world) or "start the service, or declare it with a ServiceEntry"
        yield finding(NOT_FOUND, Severity.ERROR, found, f"{path}.host", message, advice)
        return
    yield from _subset(world, found, target, host, path)
    if service is not None:
        yield from _port(found, target, service, path)


def _service(world: World, host: str) -> Service | None:
    best = names.most_specific(host, world.services)
    return world.services[best] if best is not None else None


def _near(host: str, world: World) -> str:
    known = {full.split(".")[0]: full for full in world.services}
    return did_you_mean(host.split(".")[0], known)


def _subset(world: World, found: MeshObject, target: Destination, host: str, path: str) -> Iterator[Finding]:
    if not target.subset:
        return
    known = {subset.name for rule in _rules_for(world, host) for subset in rule.subsets}
    if target.subset not in known:
        message = f'Referenced host+subset in destinationrule not found: "{target.host}+{target.subset}"'
        have = (
            f"known subsets: {', '.join(sorted(known))}"
            if known
            else f"apply a DestinationRule with subsets for {target.host}"
        )
        yield finding(NOT_FOUND, Severity.ERROR, found, f"{path}.subset", message, did_you_mean(target.subset, known) or have)


def _rules_for(world: World, host: str) -> Iterator[DestinationRule]:
    for rule in world.of_kind("DestinationRule"):
        if isinstance(rule.spec, DestinationRule):
            pattern = names.resolve(rule.spec.host, rule.key.namespace, world.domain_suffix)
            if names.covers(pattern, host):
                yield rule.spec


def _port(found: MeshObject, target: Destination, service: Service, path: str) -> Iterator[Finding]:
    numbers = sorted(port.number for port in service.ports)
    shown = ", ".join(map(str, numbers))
    if target.port is None and len(numbers) > 1:
        message = f"{target.host} has several ports ({shown}): the destination must say which one"
        yield finding(PORT_NEEDED, Severity.ERROR, found, path, message, "write port: with a number:")
    elif target.port is not None and target.port.number not in numbers:
        message = f'Referenced port not found: "{target.host}:{target.port.number}"'
        yield finding(NOT_FOUND, Severity.ERROR, found, f"{path}.port.number", message, f"known ports: {shown}")


def _delegate(world: World, found: MeshObject, route: HttpRoute, path: str) -> Iterator[Finding]:
    if route.delegate is None:
        return
    namespace = route.delegate.namespace or found.key.namespace
    key = ObjectKey(found.key.group, "VirtualService", namespace, route.delegate.name)
    if key not in world.objects:
        message = f'Referenced virtualservice not found: "{namespace}/{route.delegate.name}"'
        yield finding(NOT_FOUND, Severity.ERROR, found, path, message)


def destination_rule(world: World, found: MeshObject) -> Iterator[Finding]:
    """The host of a DestinationRule is known, and each of its subsets runs somewhere."""
    spec: DestinationRule = found.spec
    host = names.resolve(spec.host, found.key.namespace, world.domain_suffix)
    services = [service for name, service in world.services.items() if names.covers(host, name)]
    if world.services and not services and not any(names.covers(name, host) for name in world.services):
        message = f"The host {spec.host} of this DestinationRule does not match any service in the mesh"
        advice = _near(spec.host, world) or "start the service, or declare it with a ServiceEntry"
        yield finding(UNKNOWN_HOST, Severity.WARNING, found, "spec.host", message, advice)
    everyone = [one for service in services for instances in service.instances.values() for one in instances]
    for index, subset in enumerate(spec.subsets):
        if everyone and not any(subset.labels.items() <= one.labels.items() for one in everyone):
            message = f"No instance of {spec.host} has the labels of subset {subset.name}: it would answer 503 UH"
            path = item("spec.subsets", index)
            # A warning, where istioctl has an error: processes come and go, and Istio's own Bookinfo names absent versions.
            yield finding(EMPTY_SUBSET, Severity.WARNING, found, path, message, "start such an instance, or mend the labels")


def selector(world: World, found: MeshObject) -> Iterator[Finding]:
    """The selector of a policy selects something."""
    spec: PeerAuthentication | RequestAuthentication | AuthorizationPolicy = found.spec
    wanted = spec.selector.match_labels if spec.selector else {}
    if not wanted or not world.services:
        return
    everyone = (one for service in world.services.values() for instances in service.instances.values() for one in instances)
    anywhere = found.key.namespace == world.root_namespace
    if not any(
        (anywhere or one.namespace == found.key.namespace) and wanted.items() <= one.labels.items() for one in everyone
    ):
        shown = ",".join(f"{name}={value}" for name, value in sorted(wanted.items()))
        message = f"No matching workloads for this resource with the following labels: {shown}"
        yield finding(NO_WORKLOAD, Severity.WARNING, found, "spec.selector", message)
