"""TLS of clusters and listeners, in the two shapes that clients take.

Envoy and the library: secrets by name (SDS `default` and `ROOTCA`), names of peers in match_typed_subject_alt_names.
grpcio: certificate providers of its bootstrap; it rejects SDS and ignores match_typed_subject_alt_names without a word, so
peers are named in the deprecated match_subject_alt_names, which it enforces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshlib.config.messages import message, pack
from meshlib_control.model import World
from meshlib_control.names import ClusterName
from meshlib_control.translate.build import ADS
from meshlib_control.translate.trust_domains import trust_domains

ALPN = ("istio-http/1.1", "istio", "http/1.1")
TLS_MODE = "tlsMode"
IN_MESH = "istio"
_TLS_SOCKET = "envoy.transport_sockets.tls"
_TLS = "envoy.extensions.transport_sockets.tls.v3."


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """A workload's identity."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def upstream_socket(name: ClusterName, peers: Iterable[str], grpc: bool = False) -> dict[str, Any]:
    """The transport socket of mutual TLS towards a cluster.

    Args:
        peers: SPIFFE ids that may answer, never empty: an empty list would accept everybody.
        grpc: in grpcio's shape.
    """
    common = _grpc_peers(peers) if grpc else _sds_peers(peers)
    return tls_socket(message(_TLS + "UpstreamTlsContext")(sni=name.sni, common_tls_context=common))


def downstream_socket(world: World, grpc: bool = False) -> dict[str, Any]:
    """The transport socket of a port that asks every client for a certificate of the mesh.

    A gRFC-A29 server has no matchers of names: whoever a root vouches for may come in there.
    """
    common = _grpc_trust() if grpc else {**_sds_trust(everybody(world)), "alpn_protocols": ALPN}
    return tls_socket(
        message(_TLS + "DownstreamTlsContext")(require_client_certificate={"value": True}, common_tls_context=common)
    )


def tls_socket(context: Any) -> dict[str, Any]:
    """A TLS context as a transport socket."""
    return {"name": _TLS_SOCKET, "typed_config": pack(context)}


def exact_peers(peers: Iterable[str]) -> list[dict[str, Any]]:
    """Matchers for the URI of a peer's certificate."""
    return [{"san_type": "URI", "matcher": {"exact": peer}} for peer in sorted(peers)]


def raw_socket() -> dict[str, Any]:
    """The transport socket of plain text."""
    raw = message("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")()
    return {"name": "envoy.transport_sockets.raw_buffer", "typed_config": pack(raw)}


def everybody(world: World) -> list[dict[str, Any]]:
    """Matchers for all members of the mesh: of its trust domain and of the names that this had before."""
    return [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{domain}/"}} for domain in trust_domains(world)]


def _sds_peers(peers: Iterable[str]) -> dict[str, Any]:
    return {**_sds_trust(exact_peers(peers)), "alpn_protocols": ALPN}


def _sds_trust(peers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": ADS}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": peers},
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": ADS},
        },
    }


def _grpc_peers(peers: Iterable[str]) -> dict[str, Any]:
    common = _grpc_trust()
    common["validation_context"]["match_subject_alt_names"] = [{"exact": peer} for peer in sorted(peers)]
    return common


def _grpc_trust() -> dict[str, Any]:
    root = {"instance_name": "default", "certificate_name": "ROOTCA"}
    return {
        "tls_certificate_provider_instance": {"instance_name": "default", "certificate_name": "default"},
        "validation_context": {"ca_certificate_provider_instance": root},
    }
