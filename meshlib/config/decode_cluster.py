"""CDS and EDS: clusters and their endpoints. Part of `decode`, and under its rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config import decode_protection as protection
from meshlib.config.model import Assignment, Cluster, Endpoint, LbPolicy, Locality, UpstreamTls
from meshlib.errors import ConfigurationError

DEFAULT_CONNECT_TIMEOUT = 5.0  # seconds; Envoy's (config/cluster/v3/cluster.proto)

_LB_POLICIES = {
    "ROUND_ROBIN": LbPolicy.ROUND_ROBIN,
    "LEAST_REQUEST": LbPolicy.LEAST_REQUEST,
    "RANDOM": LbPolicy.RANDOM,
    "CLUSTER_PROVIDED": LbPolicy.PASSTHROUGH,
}


def cluster(message: Any) -> Cluster:
    """A CDS resource."""
    kind = fields.enum_name(message, "type")
    assignment = ""
    endpoints: tuple[Endpoint, ...] = ()
    if kind == "EDS":
        assignment = message.eds_cluster_config.service_name or message.name
    elif kind in ("STATIC", "STRICT_DNS", "LOGICAL_DNS"):
        endpoints = _endpoints(message.load_assignment, "load_assignment")
    elif kind != "ORIGINAL_DST":
        raise ConfigurationError(f"the type {kind} is not supported", field="type")
    breakers = protection.circuit_breakers(message)
    return Cluster(
        name=message.name,
        lb_policy=_lb_policy(message, kind),
        assignment=assignment,
        endpoints=endpoints,
        tls=_upstream_tls(message),
        connect_timeout=fields.seconds(message, "connect_timeout", "") or DEFAULT_CONNECT_TIMEOUT,
        origin=fields.origin(message.metadata),
        circuit_breakers=breakers,
        outlier_detection=protection.outlier_detection(message),
        panic_threshold=protection.panic_threshold(message),
        connections=protection.connection_policy(message, breakers),
    )


def _lb_policy(message: Any, kind: str) -> LbPolicy:
    name = fields.enum_name(message, "lb_policy")
    if name not in _LB_POLICIES:
        raise ConfigurationError(f"{name} is not supported; choose one of {', '.join(_LB_POLICIES)}", field="lb_policy")
    policy = _LB_POLICIES[name]
    if (policy is LbPolicy.PASSTHROUGH) != (kind == "ORIGINAL_DST"):  # Envoy demands both or none
        raise ConfigurationError("CLUSTER_PROVIDED and ORIGINAL_DST belong together", field="lb_policy")
    return policy


def _upstream_tls(message: Any) -> UpstreamTls | None:
    if message.HasField("transport_socket") and _tls_context(message.transport_socket, "transport_socket") is not None:
        # Sending plain text to an endpoint without the mark would break what the operator asked for.
        raise ConfigurationError(
            "TLS for every endpoint is not supported, only by transport_socket_matches", field="transport_socket"
        )
    for index, candidate in enumerate(message.transport_socket_matches):
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
    context = fields.unpacked(socket.typed_config, f"{place}.transport_socket.typed_config")
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


def assignment(message: Any) -> Assignment:
    """An EDS resource."""
    return Assignment(message.cluster_name, _endpoints(message, ""))


def _endpoints(load_assignment: Any, place: str) -> tuple[Endpoint, ...]:
    prefix = f"{place}." if place else ""
    found: list[Endpoint] = []
    for group_index, group in enumerate(load_assignment.endpoints):
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
    workload, namespace, app, version = _workload(fields.text(metadata, "istio", "workload"))
    labels = fields.text_fields(metadata, "meshlib", "labels") or _present({"app": app, "version": version})
    return Endpoint(
        address=address.address,
        port=address.port_value,
        weight=endpoint.load_balancing_weight.value or 1,
        healthy=fields.enum_name(endpoint, "health_status") in _USABLE,
        tls=fields.text(metadata, "envoy.transport_socket_match", "tlsMode") == "istio",
        locality=locality,
        workload=workload,
        namespace=namespace,
        service_account=fields.text(metadata, "meshlib", "service_account"),
        labels=labels,
    )


def _workload(text: str) -> tuple[str, str, str, str]:
    """Istio's `workload;namespace;canonical service;canonical revision;cluster`; what is missing is empty."""
    workload, namespace, app, version = ([*text.split(";"), "", "", "", ""])[:4]
    return workload, namespace, app, version


def _present(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
