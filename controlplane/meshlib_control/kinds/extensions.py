"""EnvoyFilter and ProxyConfig (networking.istio.io), WasmPlugin and TrafficExtension (extensions.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from meshlib_control.kinds.base import Count, Int32, NonEmpty, Port, Spec, UInt32
from meshlib_control.kinds.common import LabelSelector, TargetReference, TargetReferences, WorkloadSelector

PluginName = Annotated[str, Meta(min_length=1, max_length=256)]
SecretName = Annotated[str, Meta(min_length=1, max_length=253)]
Sha256 = Annotated[str, Meta(pattern=r"(^$|^[a-f0-9]{64}$)")]
PullPolicy = Literal["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]
PluginType = Literal["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]
FailStrategy = Literal["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]
ApplyTo = Literal[
    "INVALID",
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "EXTENSION_CONFIG",
    "BOOTSTRAP",
    "LISTENER_FILTER",
]
PatchOperation = Literal[
    "INVALID",
    "MERGE",
    "ADD",
    "REMOVE",
    "INSERT_BEFORE",
    "INSERT_AFTER",
    "INSERT_FIRST",
    "REPLACE",
    "MERGE_AND_REPLACE_LIST",
]


class SubFilterMatch(Spec, frozen=True):
    """An HTTP filter."""

    name: str = ""


class FilterMatch(Spec, frozen=True):
    """A network filter, and an HTTP filter in it."""

    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Spec, frozen=True):
    """A filter chain."""

    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""
    filter: FilterMatch | None = None
    destination_port: UInt32 = 0


class ListenerMatch(Spec, frozen=True):
    """A listener."""

    port_number: UInt32 = 0
    port_name: str = ""
    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""


class EnvoyRouteMatch(Spec, frozen=True):
    """A route."""

    name: str = ""
    action: Literal["ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE"] = "ANY"


class VirtualHostMatch(Spec, frozen=True):
    """A virtual host."""

    name: str = ""
    domain_name: str = ""
    route: EnvoyRouteMatch | None = None


class RouteConfigurationMatch(Spec, frozen=True):
    """A route configuration."""

    port_number: UInt32 = 0
    port_name: str = ""
    gateway: str = ""
    vhost: VirtualHostMatch | None = None
    name: str = ""


class ClusterMatch(Spec, frozen=True):
    """A cluster."""

    port_number: UInt32 = 0
    service: str = ""
    subset: str = ""
    name: str = ""


class WaypointRouteMatch(Spec, frozen=True):
    """A waypoint's route."""

    name: str = ""


class WaypointMatch(Spec, frozen=True):
    """A part of a waypoint."""

    filter: FilterMatch | None = None
    route: WaypointRouteMatch | None = None
    port_number: Port | None = None


class ProxyMatch(Spec, frozen=True):
    """A kind of proxy."""

    proxy_version: str = ""
    metadata: Mapping[str, str] = {}


class ConfigObjectMatch(Spec, frozen=True):
    """What a patch applies to."""

    one_of: ClassVar = (("listener", "routeConfiguration", "cluster", "waypoint"),)

    context: Literal["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT"] = "ANY"
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None
    waypoint: WaypointMatch | None = None


class Patch(Spec, frozen=True):
    """The change; `value` is a piece of Envoy's configuration."""

    operation: PatchOperation = "INVALID"
    value: Mapping[str, Any] = {}
    filter_class: Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED"


class ConfigPatch(Spec, frozen=True):
    """One change of Envoy's configuration."""

    apply_to: ApplyTo = "INVALID"
    match: ConfigObjectMatch | None = None
    patch: Patch | None = None


class EnvoyFilter(Spec, frozen=True):
    """Changes of Envoy's configuration."""

    workload_selector: WorkloadSelector | None = None
    target_refs: TargetReferences = ()
    config_patches: tuple[ConfigPatch, ...] = ()
    priority: Int32 = 0


class ProxyImage(Spec, frozen=True):
    """A variant of the proxy's image."""

    image_type: str = ""


class ProxyConfig(Spec, frozen=True):
    """Settings of the proxy process."""

    selector: LabelSelector | None = None
    concurrency: Count | None = None
    environment_variables: Mapping[str, Annotated[str, Meta(max_length=2048)]] = {}
    image: ProxyImage | None = None


class EnvironmentVariable(Spec, frozen=True):
    """A variable of the plug-in's virtual machine."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    value_from: Literal["INLINE", "HOST"] = "INLINE"
    value: Annotated[str, Meta(max_length=2048)] = ""


class VmConfig(Spec, frozen=True):
    """The plug-in's virtual machine."""

    env: Annotated[tuple[EnvironmentVariable, ...], Meta(max_length=256, extra={"unique": "name"})] = ()


class SelectorPort(Spec, frozen=True):
    """A port."""

    number: Port


class TrafficSelector(Spec, frozen=True):
    """Traffic that an extension sees."""

    mode: Literal["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"] = "CLIENT_AND_SERVER"
    ports: Annotated[tuple[SelectorPort, ...], Meta(extra={"unique": "number"})] = ()


class WasmPlugin(Spec, frozen=True):
    """A WebAssembly filter."""

    url: NonEmpty
    selector: LabelSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: TargetReferences = ()
    sha256: Sha256 = ""
    image_pull_policy: PullPolicy = "UNSPECIFIED_POLICY"
    image_pull_secret: SecretName = ""
    verification_key: str = ""
    plugin_config: Mapping[str, Any] = {}
    plugin_name: PluginName = ""
    phase: Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED_PHASE"
    priority: Int32 | None = None
    fail_strategy: FailStrategy = "FAIL_CLOSE"
    vm_config: VmConfig | None = None
    match: tuple[TrafficSelector, ...] = ()
    type: PluginType = "UNSPECIFIED_PLUGIN_TYPE"


class WasmConfig(Spec, frozen=True):
    """A WebAssembly filter of a TrafficExtension."""

    url: NonEmpty
    sha256: Sha256 = ""
    image_pull_policy: PullPolicy = "UNSPECIFIED_POLICY"
    image_pull_secret: SecretName = ""
    verification_key: str = ""
    plugin_config: Mapping[str, Any] = {}
    plugin_name: PluginName = ""
    fail_strategy: FailStrategy = "FAIL_CLOSE"
    vm_config: VmConfig | None = None
    type: PluginType = "UNSPECIFIED_PLUGIN_TYPE"


class LuaConfig(Spec, frozen=True):
    """A Lua filter."""

    inline_code: Annotated[str, Meta(min_length=1, max_length=65536)]


class TrafficExtension(Spec, frozen=True):
    """A WebAssembly or Lua filter."""

    one_of: ClassVar = (("wasm", "lua"),)

    selector: LabelSelector | None = None
    target_refs: TargetReferences = ()
    wasm: WasmConfig | None = None
    lua: LuaConfig | None = None
    phase: Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED"
    priority: Int32 | None = None
    match: tuple[TrafficSelector, ...] = ()
