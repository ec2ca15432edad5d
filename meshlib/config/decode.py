"""xDS resources -> `meshlib.config.model`, with all validation: what comes out may be trusted.

The only place of the library that reads protobuf fields of resources (with its parts: decode_route, decode_match,
decode_cluster, decode_policy, decode_fields). A condition, an action or an inbound filter that we would not obey is refused
with ConfigurationError (the control plane gets a NACK and shows it), never skipped: a route matched too widely sends traffic
to the wrong place. Settings that change no decision of ours (statistics prefixes, filters for other proxies) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config import decode_fields as fields
from meshlib.config.decode_cluster import assignment, cluster
from meshlib.config.decode_policy import inbound_policy
from meshlib.config.decode_route import route_configuration
from meshlib.config.messages import TYPE_PREFIX, message
from meshlib.config.model import OutboundListener, PeerMode
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind, Value
from meshlib.errors import ConfigurationError

_SPIFFE_PREFIX = re.compile(r"spiffe://([a-z0-9._-]+)/")

TYPE_URLS: Mapping[Kind, str] = {
    Kind.LISTENER: TYPE_PREFIX + "envoy.config.listener.v3.Listener",
    Kind.ROUTE: TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration",
    Kind.CLUSTER: TYPE_PREFIX + "envoy.config.cluster.v3.Cluster",
    Kind.ASSIGNMENT: TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment",
}


def decode(kind: Kind, body: bytes) -> Value:
    """A resource from its serialized message. Raises ConfigurationError that names the field."""
    try:
        parsed = message(TYPE_URLS[kind].removeprefix(TYPE_PREFIX)).FromString(body)
    except DecodeError as error:
        raise ConfigurationError(f"these bytes are no {kind.value} resource: {error}") from error
    return _READERS[kind](parsed)


def _listener(listener: Any) -> OutboundListener | InboundListener:
    if listener.HasField("api_listener"):
        return _outbound_listener(listener)
    if listener.filter_chains:
        return _inbound_listener(listener)
    raise ConfigurationError("a listener needs an api_listener (outbound) or filter_chains (inbound)", field="api_listener")


def _outbound_listener(listener: Any) -> OutboundListener:
    place = "api_listener.api_listener"
    connection_manager = fields.unpacked(listener.api_listener.api_listener, place)
    if connection_manager.DESCRIPTOR.name != "HttpConnectionManager":
        raise ConfigurationError("only HttpConnectionManager is supported", field=place)
    name = connection_manager.rds.route_config_name
    if not name:
        raise ConfigurationError("routes must come by RDS: route_config_name is empty", field=f"{place}.rds.route_config_name")
    return OutboundListener(listener.name, name)


def _inbound_listener(listener: Any) -> InboundListener:
    filters, normalization = inbound_policy(listener.filter_chains)
    mode, origin = _peer_mode(listener.filter_chains), fields.origin(listener.metadata)
    origins, domains = fields.origins(listener.metadata), frozenset(_trust_domains(listener.filter_chains))
    return InboundListener(listener.name, mode, origin, filters, normalization, origins, domains)


def _peer_mode(chains: Any) -> PeerMode:
    secured = {_is_mutual_tls(chain, f"filter_chains[{index}]") for index, chain in enumerate(chains)}
    if secured == {True, False}:
        return PeerMode.PERMISSIVE
    return PeerMode.STRICT if True in secured else PeerMode.DISABLE


def _trust_domains(chains: Any) -> Iterator[str]:
    """Those whose members may come in: `prefix: spiffe://cluster.local/` among the matchers of a peer's names."""
    for index, chain in enumerate(chains):
        place = f"filter_chains[{index}].transport_socket"
        if not _is_mutual_tls(chain, f"filter_chains[{index}]"):
            continue
        validation = fields.unpacked(chain.transport_socket.typed_config, place).common_tls_context.combined_validation_context
        for matcher in validation.default_validation_context.match_typed_subject_alt_names:
            found = _SPIFFE_PREFIX.fullmatch(matcher.matcher.prefix)
            if found is None:
                raise ConfigurationError("peers are told apart by trust domain only: prefix: spiffe://DOMAIN/", field=place)
            yield found[1]


def _is_mutual_tls(chain: Any, place: str) -> bool:
    if not chain.HasField("transport_socket"):
        return False
    socket = fields.unpacked(chain.transport_socket.typed_config, f"{place}.transport_socket")
    if socket.DESCRIPTOR.name != "DownstreamTlsContext":
        return False
    if not socket.require_client_certificate.value:
        raise ConfigurationError(
            "TLS without a client certificate is not supported", field=f"{place}.require_client_certificate"
        )
    return True


_READERS: Mapping[Kind, Callable[[Any], Value]] = {
    Kind.LISTENER: _listener,
    Kind.ROUTE: route_configuration,
    Kind.CLUSTER: cluster,
    Kind.ASSIGNMENT: assignment,
}
