"""Whom CUSTOM asks: the provider is known, can be reached, and is the only one of its workloads.

Each of these fails closed: what the rules match is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from meshlib_control import mesh_config
from meshlib_control.analyze.destinations import NOT_FOUND
from meshlib_control.analyze.finding import finding
from meshlib_control.kinds import AuthorizationPolicy
from meshlib_control.kinds.extension_provider import ExtensionProvider
from meshlib_control.mistakes import child, did_you_mean, item
from meshlib_control.model import Finding, MeshObject, ObjectKey, Severity, World

SEVERAL_PROVIDERS: Final = "MSH0006"
_PROVIDERS: Final = child(mesh_config.FIELD, "extensionProviders")


class _Workload(NamedTuple):
    """Whom policies may be for.

    Args:
        service: short name of a service that it serves; empty: unknown.
    """

    namespace: str
    labels: frozenset[tuple[str, str]]
    service: str = ""


def policy(world: World, found: MeshObject) -> Iterator[Finding]:
    """CUSTOM names a provider that the mesh configuration has, and that can be asked."""
    if found.spec.action != "CUSTOM":
        return
    name, known = found.spec.provider.name, _providers(world)
    if name not in known:
        message = f'Referenced provider not found: "{name}", so what the rules match is refused'
        advice = did_you_mean(name, known) or f"name it under extensionProviders in the {mesh_config.KEY}"
        yield finding(NOT_FOUND, Severity.ERROR, found, "spec.provider.name", message, advice)
    elif known[name].authorizer is None:
        message = f'The provider "{name}" is no authorizer, so what the rules match is refused'
        advice = "give it envoyExtAuthzGrpc or envoyExtAuthzHttp"
        yield finding(NOT_FOUND, Severity.ERROR, found, "spec.provider.name", message, advice)


def services(world: World) -> Iterator[Finding]:
    """Authorizers of the mesh configuration whose service or port nobody knows."""
    found = world.objects.get(mesh_config.KEY)
    if found is None or not world.services:
        return
    for index, one in enumerate(_providers(world).values()):
        asked = one.authorizer
        if asked is None:
            continue
        path = child(item(_PROVIDERS, index), "envoyExtAuthzGrpc" if one.envoy_ext_authz_grpc else "envoyExtAuthzHttp")
        namespace, _, host = asked.service.rpartition("/")
        service = world.services.get(host.lower())
        if service is None or namespace not in ("", service.namespace):
            message = f'Referenced host not found: "{asked.service}", so what CUSTOM policies of {one.name} match is refused'
            advice = did_you_mean(host, world.services) or "start the service, or declare it with a ServiceEntry"
            yield finding(NOT_FOUND, Severity.ERROR, found, f"{path}.service", message, advice)
        elif asked.port not in (numbers := sorted(port.number for port in service.ports)):
            message = f'Referenced port not found: "{host}:{asked.port}"'
            yield finding(
                NOT_FOUND, Severity.ERROR, found, f"{path}.port", message, f"known ports: {', '.join(map(str, numbers))}"
            )


def several(world: World) -> Iterator[Finding]:
    """CUSTOM policies of more than one provider for one workload: Istio asks none of them and refuses."""
    custom = {one.key: one for one in world.of_kind("AuthorizationPolicy") if _asks(one)}
    rivals: dict[ObjectKey, set[str]] = defaultdict(set)
    for workload in _workloads(world, custom.values()):
        mine = [one for one in custom.values() if _is_for(one, workload, world.root_namespace)]
        for one in mine:
            rivals[one.key] |= {other.spec.provider.name for other in mine}
    for key, providers in rivals.items():
        if len(providers) > 1:
            shown = ", ".join(sorted(providers))
            message = f"A workload is to ask several providers ({shown}): none is asked, and what the rules match is refused"
            advice = "name one provider in all CUSTOM policies of a workload"
            yield finding(SEVERAL_PROVIDERS, Severity.ERROR, custom[key], "spec.provider.name", message, advice)


def _providers(world: World) -> Mapping[str, ExtensionProvider]:
    """By name, as written. From the objects: a world of files alone has no configuration of its own."""
    return {one.name: one for one in mesh_config.mesh_config(world.objects).extension_providers}


def _asks(found: MeshObject) -> bool:
    return isinstance(found.spec, AuthorizationPolicy) and found.spec.action == "CUSTOM"


def _workloads(world: World, custom: Iterable[MeshObject]) -> set[_Workload]:
    """Who is there; of files alone those that the policies themselves describe."""
    if not world.services:
        return {_Workload(one.key.namespace, _wanted(one), name) for one in custom for name in _targets(one) or {""}}
    return {
        _Workload(one.namespace, frozenset(one.labels.items()), hostname.partition(".")[0])
        for hostname, service in world.services.items()
        for instances in service.instances.values()
        for one in instances
    }


def _is_for(found: MeshObject, workload: _Workload, root: str) -> bool:
    if targets := _targets(found):
        return found.key.namespace == workload.namespace and workload.service in targets
    return found.key.namespace in (root, workload.namespace) and _wanted(found) <= workload.labels


def _wanted(found: MeshObject) -> frozenset[tuple[str, str]]:
    selector = found.spec.selector
    return frozenset(selector.match_labels.items()) if selector else frozenset()


def _targets(found: MeshObject) -> set[str]:
    spec = found.spec
    return {one.name for one in (*spec.target_refs, *((spec.target_ref,) if spec.target_ref else ()))}
