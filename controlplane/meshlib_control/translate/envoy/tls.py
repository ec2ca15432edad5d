"""TLS of an Envoy: its own certificate from its machine, the mesh's roots from here.

The private key is made where Envoy runs and the control plane never sees it, so `default` is never served over ADS: Envoy
reads it from a file that its node names, or asks its agent (Istio's static cluster `sds-grpc`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final

from meshlib.config.messages import message
from meshlib_control.model import Node, World
from meshlib_control.names import ClusterName
from meshlib_control.translate.build import ADS, duration
from meshlib_control.translate.tls import ALPN, everybody, exact_peers, tls_socket

_TLS: Final = "envoy.extensions.transport_sockets.tls.v3."
ALPN_HTTP2: Final = ("istio-h2", "istio", "h2")
SERVED_ALPN: Final = ("h2", "http/1.1")

# Envoy's clients stop at TLS 1.2 unless told; servers of the library begin at 1.3.
_VERSIONS: Final = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


def upstream_socket(node: Node, name: ClusterName, peers: Iterable[str], *, http2: bool) -> dict[str, Any]:
    """The transport socket of mutual TLS towards a cluster.

    Args:
        peers: SPIFFE ids that may answer, never empty: an empty list would accept everybody.
        http2: the port speaks HTTP/2.
    """
    common = _common(node, exact_peers(peers), ALPN_HTTP2 if http2 else ALPN)
    return tls_socket(message(_TLS + "UpstreamTlsContext")(sni=name.sni, common_tls_context=common))


def downstream_socket(world: World, node: Node) -> dict[str, Any]:
    """The transport socket of a port that asks every client for a certificate of the mesh."""
    common = _common(node, everybody(world), SERVED_ALPN)
    return tls_socket(
        message(_TLS + "DownstreamTlsContext")(require_client_certificate={"value": True}, common_tls_context=common)
    )


def _common(node: Node, peers: list[dict[str, Any]], alpn: Iterable[str]) -> dict[str, Any]:
    return {
        "tls_params": _VERSIONS,
        "alpn_protocols": alpn,
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": _identity_source(node)}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": peers},
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": ADS},
        },
    }


def _identity_source(node: Node) -> dict[str, Any]:
    path = node.proxying.identity_file
    if path:
        watched = {"path": str(PurePosixPath(path).parent)}
        return {"path_config_source": {"path": path, "watched_directory": watched}, "resource_api_version": "V3"}
    agent = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    }
    # Istio: a listener without a certificate waits for it, however long that takes.
    return {"api_config_source": agent, "initial_fetch_timeout": duration(0), "resource_api_version": "V3"}
