"""xDS resources -> `meshlib.config.model`, with all validation: what comes out may be trusted.

The only file of the library that reads protobuf fields of resources. A condition or an action that we would not obey is
refused with ConfigurationError (the control plane gets a NACK and shows it), never skipped: a route matched too widely sends
traffic to the wrong place. Settings that change no decision of ours (statistics prefixes, filters for other proxies) are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config.decode_match import route_match
from meshlib.config.messages import TYPE_PREFIX, message, unpack
from meshlib.config.model import (
    Abort,
    Assignment,
    Cluster,
    Delay,
    Endpoint,
    Fault,
    InboundListener,
    LbPolicy,
    Locality,
    Origin,
    OutboundListener,
    PeerMode,
    RetryPolicy,
    Route,
    RouteConfiguration,
    UpstreamTls,
    VirtualHost,
    WeightedCluster,
)
from meshlib.config.subscription import Kind, Value
from meshlib.errors import ConfigurationError

TYPE_URLS: Mapping[Kind, str] = {
    Kind.LISTENER: TYPE_PREFIX + "envoy.config.listener.v3.Listener",
    Kind.ROUTE: TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration",
    Kind.CLUSTER: TYPE_PREFIX + "envoy.config.cluster.v3.Cluster",
    Kind.ASSIGNMENT: TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment",
}
FAULT_FILTER = "envoy.filters.http.fault"

# Envoy's defaults (config/route/v3/route_components.proto, config/cluster/v3/cluster.proto), in seconds.
DEFAULT_ROUTE_TIMEOUT = 15.0
DEFAULT_CONNECT_TIMEOUT = 5.0
DEFAULT_BACKOFF_BASE = 0.025


def decode(kind: Kind, body: bytes) -> Value:
    """A resource from its serialized message. Raises ConfigurationError that names the field."""
    try:
        parsed = message(TYPE_URLS[kind].removeprefix(TYPE_PREFIX)).FromString(body)
    except DecodeError as error:
        raise ConfigurationError(f"these bytes are no {kind.value} resource: {error}") from error
    return _READERS[kind](parsed)


# Listeners


def _listener(listener: Any) -> OutboundListener | InboundListener:
    if listener.HasField("api_listener"):
        return _outbound_listener(listener)
    if listener.filter_chains:
        return InboundListener(listener.name, _peer_mode(listener.filter_chains), _origin(listener.metadata))
    raise ConfigurationError("a listener needs an api_listener (outbound) or filter_chains (inbound)", field="api_listener")


def _outbound_listener(listener: Any) -> OutboundListener:
    place = "api_listener.api_listener"
    connection_manager = _unpack(listener.api_listener.api_listener, place)
    if connection_manager.DESCRIPTOR.name != "HttpConnectionManager":
        raise ConfigurationError("only HttpConnectionManager is supported", field=place)
    name = connection_manager.rds.route_config_name
    if not name:
        raise ConfigurationError("routes must come by RDS: route_config_name is empty", field=f"{place}.rds.route_config_name")
    return OutboundListener(listener.name, name)


def _peer_mode(chains: Any) -> PeerMode:
    secured = {_is_mutual_tls(chain, f"filter_chains[{index}]") for index, chain in enumerate(chains)}
    if secured == {True, False}:
        return PeerMode.PERMISSIVE
    return PeerMode.STRICT if True in secured else PeerMode.DISABLE


def _is_mutual_tls(chain: Any, place: str) -> bool:
    if not chain.HasField("transport_socket"):
        return False
    socket = _unpack(chain.transport_socket.typed_config, f"{place}.transport_socket")
    if socket.DESCRIPTOR.name != "DownstreamTlsContext":
        return False
    if not socket.require_client_certificate.value:
        raise ConfigurationError(
            "TLS without a client certificate is not supported", field=f"{place}.require_client_certificate"
        )
    return True


# Routes


def _route_configuration(configuration: Any) -> RouteConfiguration:
    hosts = tuple(_virtual_host(host, f"virtual_hosts[{index}]") for index, host in enumerate(configuration.virtual_hosts))
    seen: dict[str, str] = {}
    for host in hosts:
        for domain in host.domains:
            if domain in seen:  # Envoy refuses it as well: "Only unique values for domains are permitted"
                raise ConfigurationError(
                    f"domain {domain!r} is in {seen[domain]!r} and in {host.name!r}", field="virtual_hosts"
                )
            seen[domain] = host.name
    return RouteConfiguration(configuration.name, hosts)


def _virtual_host(host: Any, place: str) -> VirtualHost:
    if not host.domains:
        raise ConfigurationError("a virtual host needs a domain", field=f"{place}.domains")
    routes = tuple(_route(route, f"{place}.routes[{index}]") for index, route in enumerate(host.routes))
    return VirtualHost(host.name, tuple(domain.lower() for domain in host.domains), routes)


def _route(route: Any, place: str) -> Route:
    action = route.WhichOneof("action")
    if action != "route":
        raise ConfigurationError(f"the action {action or '(none)'} is not supported, only route", field=place)
    return Route(
        name=route.name,
        match=route_match(route.match, f"{place}.match"),
        clusters=_shares(route.route, f"{place}.route"),
        timeout=_timeout(route.route, "timeout", DEFAULT_ROUTE_TIMEOUT, f"{place}.route"),
        retry=_retry_policy(route.route.retry_policy, f"{place}.route.retry_policy"),
        fault=_fault_of(route, place),
        origin=_origin(route.metadata),
    )


def _shares(action: Any, place: str) -> tuple[WeightedCluster, ...]:
    specifier = action.WhichOneof("cluster_specifier")
    if specifier == "cluster":
        return (WeightedCluster(_required(action.cluster, f"{place}.cluster"), 1),)
    if specifier != "weighted_clusters":
        raise ConfigurationError(f"{specifier or 'no cluster'}: name a cluster or weighted_clusters", field=place)
    place = f"{place}.weighted_clusters"
    shares = tuple(
        WeightedCluster(_required(share.name, f"{place}.clusters[{index}].name"), share.weight.value)
        for index, share in enumerate(action.weighted_clusters.clusters)
    )
    if sum(share.weight for share in shares) == 0:
        raise ConfigurationError("the weights add up to zero", field=f"{place}.clusters")
    return shares


def _retry_policy(policy: Any, place: str) -> RetryPolicy | None:
    retry_on = frozenset(word.strip() for word in policy.retry_on.split(",") if word.strip())
    retries = policy.num_retries.value if policy.HasField("num_retries") else 1
    if not retry_on or retries == 0:
        return None
    back_off = policy.retry_back_off
    base = _seconds(back_off, "base_interval", f"{place}.retry_back_off") or DEFAULT_BACKOFF_BASE
    longest = (
        _seconds(back_off, "max_interval", f"{place}.retry_back_off") or 10 * base
    )  # Envoy: "ten times the base_interval"
    if longest < base:
        raise ConfigurationError("max_interval is below base_interval", field=f"{place}.retry_back_off.max_interval")
    return RetryPolicy(
        retry_on=retry_on,
        retries=retries,
        per_try_timeout=_seconds(policy, "per_try_timeout", place) or None,
        status_codes=frozenset(policy.retriable_status_codes),
        backoff_base=base,
        backoff_max=longest,
        avoid_previous_hosts=any(
            one.name == "envoy.retry_host_predicates.previous_hosts" for one in policy.retry_host_predicate
        ),
        host_selection_attempts=max(policy.host_selection_retry_max_attempts, 1),
    )


def _fault_of(route: Any, place: str) -> Fault | None:
    if FAULT_FILTER not in route.typed_per_filter_config:
        return None
    place = f"{place}.typed_per_filter_config[{FAULT_FILTER}]"
    fault = _unpack(route.typed_per_filter_config[FAULT_FILTER], place)
    if fault.DESCRIPTOR.name != "HTTPFault":
        raise ConfigurationError("only HTTPFault is supported", field=place)
    if fault.headers or fault.upstream_cluster or fault.downstream_nodes:
        raise ConfigurationError("conditions of a fault belong in the route's match", field=place)
    delay = _delay(fault.delay, f"{place}.delay") if fault.HasField("delay") else None
    abort = _abort(fault.abort, f"{place}.abort") if fault.HasField("abort") else None
    return Fault(delay, abort) if delay or abort else None


def _delay(delay: Any, place: str) -> Delay:
    seconds = _seconds(delay, "fixed_delay", place)
    if not seconds:
        raise ConfigurationError("a delay needs a fixed_delay above zero", field=f"{place}.fixed_delay")
    return Delay(_fraction(delay.percentage, f"{place}.percentage"), seconds)


def _abort(abort: Any, place: str) -> Abort:
    fraction = _fraction(abort.percentage, f"{place}.percentage")
    match abort.WhichOneof("error_type"):
        case "http_status" if 200 <= abort.http_status < 600:
            return Abort(fraction, http_status=abort.http_status)
        case "grpc_status":
            return Abort(fraction, http_status=200, grpc_status=abort.grpc_status)
        case "http_status":
            raise ConfigurationError(f"{abort.http_status} is no status from 200 to 599", field=f"{place}.http_status")
        case _:
            raise ConfigurationError("an abort needs http_status or grpc_status", field=place)


def _fraction(percent: Any, place: str) -> float:
    """0.0 to 1.0. Envoy takes what is above 100 percent for 100 percent; so do we."""
    parts = {0: 100, 1: 10_000, 2: 1_000_000}
    if percent.denominator not in parts:
        raise ConfigurationError(f"unknown denominator {percent.denominator}", field=place)
    return float(min(percent.numerator / parts[percent.denominator], 1.0))


# Clusters

_LB_POLICIES = {
    "ROUND_ROBIN": LbPolicy.ROUND_ROBIN,
    "LEAST_REQUEST": LbPolicy.LEAST_REQUEST,
    "RANDOM": LbPolicy.RANDOM,
    "CLUSTER_PROVIDED": LbPolicy.PASSTHROUGH,
}


def _cluster(cluster: Any) -> Cluster:
    kind = _enum_name(cluster, "type")
    assignment, endpoints = "", ()
    if kind == "EDS":
        assignment = cluster.eds_cluster_config.service_name or cluster.name
    elif kind in ("STATIC", "STRICT_DNS", "LOGICAL_DNS"):
        endpoints = _endpoints(cluster.load_assignment, "load_assignment")
    elif kind != "ORIGINAL_DST":
        raise ConfigurationError(f"the type {kind} is not supported", field="type")
    return Cluster(
        name=cluster.name,
        lb_policy=_lb_policy(cluster, kind),
        assignment=assignment,
        endpoints=endpoints,
        tls=_upstream_tls(cluster),
        connect_timeout=_seconds(cluster, "connect_timeout", "") or DEFAULT_CONNECT_TIMEOUT,
        origin=_origin(cluster.metadata),
    )


def _lb_policy(cluster: Any, kind: str) -> LbPolicy:
    name = _enum_name(cluster, "lb_policy")
    if name not in _LB_POLICIES:
        raise ConfigurationError(f"{name} is not supported; choose one of {', '.join(_LB_POLICIES)}", field="lb_policy")
    policy = _LB_POLICIES[name]
    if (policy is LbPolicy.PASSTHROUGH) != (kind == "ORIGINAL_DST"):  # Envoy demands both or none
        raise ConfigurationError("CLUSTER_PROVIDED and ORIGINAL_DST belong together", field="lb_policy")
    return policy


def _upstream_tls(cluster: Any) -> UpstreamTls | None:
    if cluster.HasField("transport_socket") and _tls_context(cluster.transport_socket, "transport_socket") is not None:
        # Sending plain text to an endpoint without the mark would break what the operator asked for.
        raise ConfigurationError(
            "TLS for every endpoint is not supported, only by transport_socket_matches", field="transport_socket"
        )
    for index, candidate in enumerate(cluster.transport_socket_matches):
        place = f"transport_socket_matches[{index}]"
        context = _tls_context(candidate.transport_socket, place)
        if context is None:
            continue
        if candidate.match.fields["tlsMode"].string_value != "istio":
            raise ConfigurationError("TLS is supported for endpoints with tlsMode istio only", field=f"{place}.match")
        return _tls(context, place)
    return None


def _tls_context(socket: Any, place: str) -> Any | None:
    if not socket.HasField("typed_config"):
        return None
    context = _unpack(socket.typed_config, f"{place}.transport_socket.typed_config")
    return context if context.DESCRIPTOR.name == "UpstreamTlsContext" else None


def _tls(context: Any, place: str) -> UpstreamTls:
    common = context.common_tls_context
    combined = common.WhichOneof("validation_context_type") == "combined_validation_context"
    validation = common.combined_validation_context.default_validation_context if combined else common.validation_context
    names = frozenset(
        _exact(one.matcher, f"{place}.match_typed_subject_alt_names") for one in validation.match_typed_subject_alt_names
    ) | frozenset(_exact(one, f"{place}.match_subject_alt_names") for one in validation.match_subject_alt_names)
    return UpstreamTls(context.sni, names, tuple(common.alpn_protocols))


def _exact(matcher: Any, place: str) -> str:
    if matcher.WhichOneof("match_pattern") != "exact" or not matcher.exact:
        raise ConfigurationError("subject alternative names are compared exactly: use exact", field=place)
    return str(matcher.exact)


# Endpoints


def _assignment(assignment: Any) -> Assignment:
    return Assignment(assignment.cluster_name, _endpoints(assignment, ""))


def _endpoints(assignment: Any, place: str) -> tuple[Endpoint, ...]:
    prefix = f"{place}." if place else ""
    found: list[Endpoint] = []
    for group_index, group in enumerate(assignment.endpoints):
        at = f"{prefix}endpoints[{group_index}]"
        if group.priority:
            raise ConfigurationError("priorities are not supported", field=f"{at}.priority")
        locality = Locality(group.locality.region, group.locality.zone, group.locality.sub_zone)
        found.extend(
            _endpoint(endpoint, locality, f"{at}.lb_endpoints[{index}]") for index, endpoint in enumerate(group.lb_endpoints)
        )
    return tuple(found)


_USABLE = ("UNKNOWN", "HEALTHY", "DEGRADED")


def _endpoint(endpoint: Any, locality: Locality, place: str) -> Endpoint:
    address = endpoint.endpoint.address.socket_address
    if not address.address or not 0 < address.port_value < 65536:
        raise ConfigurationError(
            "an endpoint needs a socket_address with address and port_value", field=f"{place}.endpoint.address"
        )
    metadata = endpoint.metadata.filter_metadata
    workload, namespace, app, version = _workload(_text(metadata, "istio", "workload"))
    labels = _text_fields(metadata, "meshlib", "labels") or _present({"app": app, "version": version})
    return Endpoint(
        address=address.address,
        port=address.port_value,
        weight=endpoint.load_balancing_weight.value or 1,
        healthy=_enum_name(endpoint, "health_status") in _USABLE,
        tls=_text(metadata, "envoy.transport_socket_match", "tlsMode") == "istio",
        locality=locality,
        workload=workload,
        namespace=namespace,
        service_account=_text(metadata, "meshlib", "service_account"),
        labels=labels,
    )


def _workload(text: str) -> tuple[str, str, str, str]:
    """Istio's `workload;namespace;canonical service;canonical revision;cluster`; what is missing is empty."""
    workload, namespace, app, version = ([*text.split(";"), "", "", "", ""])[:4]
    return workload, namespace, app, version


def _present(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


# Shared


def _unpack(any_value: Any, place: str) -> Any:
    try:
        return unpack(any_value)
    except KeyError as error:
        raise ConfigurationError(f"the type {any_value.type_url or '(none)'} is not supported", field=place) from error
    except DecodeError as error:
        raise ConfigurationError(f"these bytes are no {any_value.type_url}: {error}", field=place) from error


def _required(text: str, place: str) -> str:
    if not text:
        raise ConfigurationError("must not be empty", field=place)
    return text


def _seconds(owner: Any, name: str, place: str) -> float:
    """A duration field; 0.0 if it is not set."""
    duration = getattr(owner, name)
    seconds = float(duration.seconds + duration.nanos / 1e9)
    if seconds < 0:
        raise ConfigurationError("a duration cannot be negative", field=f"{place}.{name}" if place else name)
    return seconds


def _timeout(owner: Any, name: str, default: float, place: str) -> float | None:
    """Envoy: not set is the default, zero is no limit."""
    return (_seconds(owner, name, place) or None) if owner.HasField(name) else default


def _enum_name(owner: Any, name: str) -> str:
    number = getattr(owner, name)
    value = owner.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number.get(number)
    return str(value.name) if value is not None else str(number)


def _origin(metadata: Any) -> Origin | None:
    own = metadata.filter_metadata["meshlib"].fields if "meshlib" in metadata.filter_metadata else {}
    if "object" not in own:
        return None
    return Origin(
        object=own["object"].string_value,
        file=own["file"].string_value if "file" in own else "",
        line=int(own["line"].number_value) if "line" in own else 0,
        field=own["field"].string_value if "field" in own else "",
    )


def _text(metadata: Any, owner: str, name: str) -> str:
    if owner not in metadata or name not in metadata[owner].fields:
        return ""
    return str(metadata[owner].fields[name].string_value)


def _text_fields(metadata: Any, owner: str, name: str) -> dict[str, str]:
    if owner not in metadata or name not in metadata[owner].fields:
        return {}
    return {key: str(value.string_value) for key, value in metadata[owner].fields[name].struct_value.fields.items()}


_READERS: Mapping[Kind, Callable[[Any], Value]] = {
    Kind.LISTENER: _listener,
    Kind.ROUTE: _route_configuration,
    Kind.CLUSTER: _cluster,
    Kind.ASSIGNMENT: _assignment,
}
