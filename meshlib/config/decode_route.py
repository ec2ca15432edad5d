"""RDS: route configurations. Part of `decode`, and under its rules."""

from __future__ import annotations

from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config.decode_match import header_match, route_match
from meshlib.config.model import Abort, Delay, Fault, RetryPolicy, Route, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.errors import ConfigurationError

FAULT_FILTER = "envoy.filters.http.fault"

# Envoy's defaults (config/route/v3/route_components.proto), in seconds.
DEFAULT_ROUTE_TIMEOUT = 15.0
DEFAULT_BACKOFF_BASE = 0.025


def route_configuration(configuration: Any) -> RouteConfiguration:
    """An RDS resource."""
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
        timeout=fields.timeout(route.route, "timeout", DEFAULT_ROUTE_TIMEOUT, f"{place}.route"),
        retry=_retry_policy(route.route.retry_policy, f"{place}.route.retry_policy"),
        fault=_fault_of(route, place),
        origin=fields.origin(route.metadata),
    )


def _shares(action: Any, place: str) -> tuple[WeightedCluster, ...]:
    specifier = action.WhichOneof("cluster_specifier")
    if specifier == "cluster":
        return (WeightedCluster(fields.required(action.cluster, f"{place}.cluster"), 1),)
    if specifier != "weighted_clusters":
        raise ConfigurationError(f"{specifier or 'no cluster'}: name a cluster or weighted_clusters", field=place)
    place = f"{place}.weighted_clusters"
    shares = tuple(
        WeightedCluster(fields.required(share.name, f"{place}.clusters[{index}].name"), share.weight.value)
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
    if policy.retriable_request_headers:  # passing over it would try again what must not be tried again
        raise ConfigurationError("this condition is not supported", field=f"{place}.retriable_request_headers")
    back_off = policy.retry_back_off
    base = fields.seconds(back_off, "base_interval", f"{place}.retry_back_off") or DEFAULT_BACKOFF_BASE
    longest = (
        fields.seconds(back_off, "max_interval", f"{place}.retry_back_off") or 10 * base
    )  # Envoy: "ten times the base_interval"
    if longest < base:
        raise ConfigurationError("max_interval is below base_interval", field=f"{place}.retry_back_off.max_interval")
    return RetryPolicy(
        retry_on=retry_on,
        retries=retries,
        per_try_timeout=fields.seconds(policy, "per_try_timeout", place) or None,
        status_codes=frozenset(policy.retriable_status_codes),
        retriable_headers=tuple(
            header_match(one, f"{place}.retriable_headers[{index}]") for index, one in enumerate(policy.retriable_headers)
        ),
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
    fault = fields.unpacked(route.typed_per_filter_config[FAULT_FILTER], place)
    if fault.DESCRIPTOR.name != "HTTPFault":
        raise ConfigurationError("only HTTPFault is supported", field=place)
    if fault.headers or fault.upstream_cluster or fault.downstream_nodes:
        raise ConfigurationError("conditions of a fault belong in the route's match", field=place)
    delay = _delay(fault.delay, f"{place}.delay") if fault.HasField("delay") else None
    abort = _abort(fault.abort, f"{place}.abort") if fault.HasField("abort") else None
    return Fault(delay, abort) if delay or abort else None


def _delay(delay: Any, place: str) -> Delay:
    seconds = fields.seconds(delay, "fixed_delay", place)
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
