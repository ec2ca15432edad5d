"""EnvoyFilter: the shapes with which Istio's documentation limits rates, understood; everything else is said to do nothing.

    HTTP_FILTER                INSERT_BEFORE, _AFTER, _FIRST    local_ratelimit or ratelimit joins the filters of a port
    VIRTUAL_HOST, HTTP_ROUTE   MERGE                            rate_limits, and settings of these filters
    CLUSTER                    ADD                              where the rate limit service is

Rule 1: a patch is obeyed for all kinds of client alike, or for none: what the library cannot do is not done by Envoy either.
Rule 2: patches act on requests that arrive (SIDECAR_INBOUND, ANY).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.json_format import ParseError

from meshlib.config.decode_rate_limit import global_rate_limit, local_rate_limit
from meshlib.config.messages import from_json, message, pack
from meshlib.errors import ConfigurationError
from meshlib_control.kinds import EnvoyFilter
from meshlib_control.kinds.extensions import ConfigObjectMatch, ConfigPatch, ListenerMatch, RouteConfigurationMatch
from meshlib_control.mistakes import item as item_path
from meshlib_control.model import MeshObject, Node, Registration, World
from meshlib_control.translate.rate_limit import GLOBAL, LOCAL
from meshlib_control.translate.scope import selects

Json = dict[str, Any]

PER_ROUTE: Final = "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
ROUTER: Final = "envoy.filters.http.router"
_MANAGERS: Final = ("", "envoy.filters.network.http_connection_manager", "envoy.http_connection_manager")
_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_WRAPPERS: Final = ("udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct")
_INSERTS: Final = ("INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST")
_EVERYWHERE: Final = ConfigObjectMatch()


class NotEffective(Exception):
    """A patch that is not obeyed; the text says why."""


@dataclass(frozen=True, slots=True)
class FilterPatch:
    """An HTTP filter for a port.

    Args:
        anchor: the filter before or after which it goes; empty: the first or last one.
        target_port: 0: of every port.
    """

    name: str
    config: Any
    operation: str
    anchor: str = ""
    target_port: int = 0


@dataclass(frozen=True, slots=True)
class RoutePatch:
    """What joins the virtual host of a port or its route.

    Args:
        host: it is the virtual host's.
        settings: of filters, by their names.
        service_port: 0: of every port.
    """

    host: bool
    rate_limits: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    service_port: int = 0


@dataclass(frozen=True, slots=True)
class ClusterPatch:
    """Where a rate limit service is."""

    cluster: Any

    @property
    def target(self) -> str:
        """`host:port` of the first endpoint."""
        address = self.cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
        return f"{address.address}:{address.port_value}"


Meaning = FilterPatch | RoutePatch | ClusterPatch


def meaning(patch: ConfigPatch) -> Meaning:
    """What a patch does. Raises NotEffective."""
    match = patch.match or _EVERYWHERE
    if match.context not in ("ANY", "SIDECAR_INBOUND") and patch.apply_to != "CLUSTER":
        raise NotEffective(f"{match.context} is not effective yet: only requests that arrive are limited (SIDECAR_INBOUND)")
    if match.proxy is not None:
        raise NotEffective("a choice by proxy is not effective yet: choose by workloadSelector")
    operation = patch.patch.operation if patch.patch else "INVALID"
    value = dict(patch.patch.value) if patch.patch else {}
    if patch.apply_to == "HTTP_FILTER" and operation in _INSERTS:
        return _filter_patch(match.listener or ListenerMatch(), operation, value)
    if patch.apply_to in ("VIRTUAL_HOST", "HTTP_ROUTE") and operation == "MERGE":
        return _route_patch(match.route_configuration or RouteConfigurationMatch(), patch.apply_to == "VIRTUAL_HOST", value)
    if patch.apply_to == "CLUSTER" and operation == "ADD":
        return _cluster_patch(value)
    raise NotEffective(f"{operation} of {patch.apply_to} is not effective yet: only rate limits are")


def problems(found: MeshObject) -> Iterator[tuple[str, str]]:
    """What of an EnvoyFilter is not obeyed: field and reason."""
    spec: EnvoyFilter = found.spec
    if not spec.config_patches:
        yield "spec", "an EnvoyFilter without configPatches does nothing"
    if spec.target_refs:
        yield "spec.targetRefs", "targetRefs is not effective yet: choose by workloadSelector"
        return
    for index, patch in enumerate(spec.config_patches):
        try:
            meaning(patch)
        except NotEffective as error:
            yield item_path("spec.configPatches", index), str(error)


def envoy_filters_for(world: World, node: Node) -> list[MeshObject]:
    """The EnvoyFilters of a workload in Istio's order: by priority, then those of the root namespace, then the oldest."""
    found = [
        item
        for item in world.of_kind("EnvoyFilter")
        if isinstance(item.spec, EnvoyFilter)
        and not item.spec.target_refs
        and item.key.namespace in (world.root_namespace, node.namespace)
        and selects(item.spec.workload_selector.labels if item.spec.workload_selector else {}, node.labels)
    ]
    return sorted(found, key=lambda item: (item.spec.priority, item.key.namespace != world.root_namespace))


def meanings(world: World, node: Node) -> Iterator[Meaning]:
    """Everything that EnvoyFilters say about a workload and that is obeyed."""
    if node.kind == "grpc":  # grpcio has none of these filters
        return
    for found in envoy_filters_for(world, node):
        for patch in found.spec.config_patches:
            try:
                yield meaning(patch)
            except NotEffective:
                continue


def patched_filters(filters: list[Json], world: World, node: Node, target_port: int) -> list[Json]:
    """The filters of a port with those that EnvoyFilters insert."""
    patches = list(meanings(world, node))
    targets = {patch.cluster.name: patch.target for patch in patches if isinstance(patch, ClusterPatch)}
    for patch in patches:
        if isinstance(patch, FilterPatch) and patch.target_port in (0, target_port):
            config = _for_library(patch.config, targets) if node.kind == "library" else patch.config
            filters = _inserted(filters, patch, {"name": patch.name, "typed_config": pack(config)})
    return filters


def patched_routes(host: Json, world: World, node: Node, entry: Registration) -> Json:
    """The virtual host of a port, which has one route, with what EnvoyFilters merge into both."""
    (route,) = host["routes"]
    for patch in meanings(world, node):
        if not isinstance(patch, RoutePatch) or patch.service_port not in (0, entry.port):
            continue
        if patch.host:
            host = _merged(host, patch)
        else:
            route = _merged(route, RoutePatch(False, (), patch.settings))
            route = _with_rules(route, patch, entry)
    return {**host, "routes": [route]}


def patched_clusters(world: World, node: Node) -> dict[str, Any]:
    """The clusters that EnvoyFilters add, by name."""
    return {patch.cluster.name: patch.cluster for patch in meanings(world, node) if isinstance(patch, ClusterPatch)}


def _filter_patch(listener: ListenerMatch, operation: str, value: Json) -> FilterPatch:
    chain = listener.filter_chain
    wanted = chain.filter if chain else None
    if listener.name not in ("", "virtualInbound") or listener.listener_filter or listener.port_name:
        raise NotEffective("a choice by the listener's name is not effective yet: choose by portNumber")
    if chain is not None and (chain.name or chain.sni or chain.transport_protocol or chain.application_protocols):
        raise NotEffective("a choice by the filter chain is not effective yet: choose by portNumber")
    if wanted is not None and wanted.name not in _MANAGERS:
        raise NotEffective(f"there is no network filter {wanted.name} here")
    anchor = wanted.sub_filter.name if wanted is not None and wanted.sub_filter else ""
    if operation == "INSERT_AFTER" and anchor in ("", ROUTER):
        raise NotEffective("nothing comes after the router: insert it before")
    name, config = str(value.get("name", "")), _config(value.get("typed_config"), (LOCAL, GLOBAL))
    if not name:
        raise NotEffective("the filter has no name")
    _check(name, config, {})
    port = listener.port_number or (chain.destination_port if chain else 0)
    return FilterPatch(name, config, operation, anchor, port)


def _route_patch(match: RouteConfigurationMatch, host: bool, value: Json) -> RoutePatch:
    port = _service_port(match)
    route = match.vhost.route if match.vhost else None
    if route is not None and (route.name not in ("", "default") or route.action not in ("ANY", "ROUTE")):
        raise NotEffective("a port has one route, named default")
    given = dict(value)
    settings = {name: _config(one, (LOCAL, PER_ROUTE)) for name, one in given.pop("typed_per_filter_config", {}).items()}
    owner = given if host else dict(given.pop("route", {}))
    written = owner.pop("rate_limits", [])
    if given or owner:
        raise NotEffective(f"{', '.join([*given, *owner])} is not effective yet: only rate limits are")
    rules = tuple(_parsed("envoy.config.route.v3.RateLimit", one) for one in written)
    for name, config in settings.items():
        _check(name, config, {})
    _check("rules", message(LOCAL)(), {"rate_limits": rules})
    return RoutePatch(host, rules, settings, port)


def _service_port(match: RouteConfigurationMatch) -> int:
    name = match.vhost.name if match.vhost else ""
    prefix, _, port = name.rpartition("|")
    if match.gateway or match.port_name or (match.vhost and match.vhost.domain_name not in ("", "*")):
        raise NotEffective("a choice by gateway, portName or domainName is not effective yet: choose by the vhost's name")
    if name and not (prefix == "inbound|http" and port.isdigit()):
        raise NotEffective(f'there is no virtual host {name} for requests that arrive: it is called "inbound|http|PORT"')
    return int(port) if name else match.port_number


def _cluster_patch(value: Json) -> ClusterPatch:
    patch = ClusterPatch(_parsed("envoy.config.cluster.v3.Cluster", value))
    try:
        found = patch.target
    except IndexError:
        found = ""
    if not patch.cluster.name or found.startswith(":") or not found:
        raise NotEffective("a cluster needs a name and an endpoint with address and port")
    return patch


def _config(written: Any, allowed: tuple[str, ...]) -> Any:
    """A typed configuration, also one that is wrapped in a TypedStruct."""
    if not isinstance(written, Mapping):
        raise NotEffective("there is no typed_config")
    name, body = _short(written.get("@type")), {key: one for key, one in written.items() if key != "@type"}
    if name in _WRAPPERS:
        name, body = _short(written.get("type_url", written.get("typeUrl"))), written.get("value", {})
    if name not in allowed:
        raise NotEffective(f"{name or 'a filter without a type'} is not effective yet: only rate limits are")
    return _parsed(name, body)


def _short(url: Any) -> str:
    return str(url or "").rpartition("/")[2]


def _parsed(name: str, written: Any) -> Any:
    try:
        return from_json(name, written)
    except ParseError as error:
        raise NotEffective(f"this is no {name}: {error}") from error


def _check(name: str, config: Any, action: Json) -> None:
    """Whether the library can do it, by what reads it there."""
    per_route = config.DESCRIPTOR.full_name == PER_ROUTE
    own = message(GLOBAL)(domain="any") if per_route else config
    settings = {name: pack(config)} if per_route else {}
    route = {"match": {"prefix": "/"}, "route": action, "typed_per_filter_config": settings}
    manager = message(_MANAGER)(route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]})
    whole = _for_library(own, {own.rate_limit_service.grpc_service.envoy_grpc.cluster_name: "any:1"} if _asks(own) else {})
    http_filter = message(f"{_MANAGER.rpartition('.')[0]}.HttpFilter")(name=name, typed_config=pack(whole))
    try:
        (global_rate_limit if _asks(own) else local_rate_limit)(http_filter, manager, "")
    except ConfigurationError as error:
        raise NotEffective(f"{error} (so it is not effective)") from error


def _asks(config: Any) -> bool:
    return bool(config.DESCRIPTOR.full_name == GLOBAL)


def _for_library(config: Any, targets: Mapping[str, str]) -> Any:
    """Envoy knows a service by its cluster; the library knows the mesh's own by name, and is told the address of others."""
    if not _asks(config):
        return config
    cluster = config.rate_limit_service.grpc_service.envoy_grpc.cluster_name
    if cluster.startswith("outbound|") and cluster not in targets:
        return config
    told = message(GLOBAL).FromString(config.SerializeToString())
    # Of a cluster that nobody described there is no address: the filter decides what no answer means, as Envoy's does.
    target = targets.get(cluster, f"{cluster or 'nowhere'}.invalid:1")
    told.rate_limit_service.grpc_service.google_grpc.target_uri = target
    told.rate_limit_service.grpc_service.google_grpc.stat_prefix = "rate_limit"
    return told


def _inserted(filters: list[Json], patch: FilterPatch, new: Json) -> list[Json]:
    """Istio: INSERT_BEFORE without a filter to go before is INSERT_FIRST; a filter that is not there takes no neighbour."""
    if patch.operation == "INSERT_FIRST" or not patch.anchor:
        return [new, *filters]
    place = next((index for index, one in enumerate(filters) if one["name"] == patch.anchor), None)
    if place is None:
        return filters
    place += patch.operation == "INSERT_AFTER"
    return [*filters[:place], new, *filters[place:]]


def _merged(owner: Json, patch: RoutePatch) -> Json:
    settings = {**owner.get("typed_per_filter_config", {}), **{name: pack(one) for name, one in patch.settings.items()}}
    rules = [*owner.get("rate_limits", ()), *patch.rate_limits]
    return {
        **owner,
        **({"typed_per_filter_config": settings} if settings else {}),
        **({"rate_limits": rules} if rules else {}),
    }


def _with_rules(route: Json, patch: RoutePatch, entry: Registration) -> Json:
    """The library's route goes nowhere; one with rules has to be of the kind that holds them."""
    if not patch.rate_limits:
        return route
    action = route.get("route", {"cluster": f"inbound|{entry.target_port}||"})
    rest = {name: one for name, one in route.items() if name != "non_forwarding_action"}
    return {**rest, "route": {**action, "rate_limits": [*action.get("rate_limits", ()), *patch.rate_limits]}}
