"""EnvoyFilter: that applyTo, match and patch fit. What the patch says is not read: nothing here runs Envoy's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshlib_control.kinds import EnvoyFilter
from meshlib_control.kinds.extensions import ConfigObjectMatch, ConfigPatch
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import rule, target_references, told, workload_selector

_LISTENER_CLASS: Final = frozenset({"LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER"})
_ROUTE_CLASS: Final = frozenset({"ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"})


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with an EnvoyFilter."""
    spec: EnvoyFilter = found.spec
    given = found.raw.get("spec", {})
    yield from workload_selector(spec.workload_selector)
    if "targetRefs" in given and "workloadSelector" in given:
        yield Mistake("spec.targetRefs", "only one of targetRefs or workloadSelector can be set")
    yield from target_references(None, None, spec.target_refs, {})
    for index, patch in enumerate(spec.config_patches):
        yield from _patch(patch, item("spec.configPatches", index))


def _patch(patch: ConfigPatch, path: str) -> Iterator[Mistake]:
    match = patch.match
    if match is not None:
        if (match.context == "WAYPOINT") != (match.waypoint is not None):
            yield rule(f"{path}.match", "only support waypointMatch when context is WAYPOINT")
        if match.context == "WAYPOINT":
            return
    if patch.apply_to == "INVALID":
        yield Mistake(f"{path}.applyTo", "Required value")
    if patch.patch is None or patch.patch.operation == "INVALID":
        yield Mistake(f"{path}.patch.operation", "Required value")
    elif patch.patch.operation != "REMOVE" and not patch.patch.value:
        yield Mistake(f"{path}.patch.value", "missing patch value for non-remove operation")
    if match is not None:
        yield from _match_fits(match, patch.apply_to, f"{path}.match")


def _match_fits(match: ConfigObjectMatch, apply_to: str, path: str) -> Iterator[Mistake]:
    if match.proxy is not None and match.proxy.proxy_version:
        yield from told(f"{path}.proxy.proxyVersion", formats.regex(match.proxy.proxy_version))
    given = next((name for name in ("listener", "route_configuration", "cluster") if getattr(match, name) is not None), "")
    for kinds, wanted, words in (
        (_LISTENER_CLASS, "listener", "listener"),
        (_ROUTE_CLASS, "route_configuration", "routeConfiguration"),
        (frozenset({"CLUSTER"}), "cluster", "cluster"),
    ):
        if apply_to in kinds and given and given != wanted:
            yield Mistake(path, f"applyTo {apply_to} needs a {words} match")
    yield from _filter(match, apply_to, path)


def _filter(match: ConfigObjectMatch, apply_to: str, path: str) -> Iterator[Mistake]:
    chain = match.listener.filter_chain if match.listener else None
    wanted = chain.filter if chain else None
    if wanted is None:
        return
    place = f"{path}.listener.filterChain.filter"
    if not wanted.name:
        yield Mistake(f"{place}.name", "filter match has no name to match on")
    if wanted.sub_filter is None:
        return
    if apply_to != "HTTP_FILTER":
        yield Mistake(f"{place}.subFilter", "subfilter match can be used with applyTo HTTP_FILTER only")
    elif wanted.name not in {"envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"}:
        yield Mistake(f"{place}.name", "subfilter match requires envoy.filters.network.http_connection_manager")
    if not wanted.sub_filter.name:
        yield Mistake(f"{place}.subFilter.name", "subfilter match has no name to match on")
