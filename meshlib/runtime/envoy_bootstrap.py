"""The bootstrap of an Envoy that is a client of our control plane: who it is, where its certificate lies, whom to ask.

Strategy: nothing in it grows old. It names files; the certificate in them may be renewed at any time, and Envoy proves itself
to the control plane with the same certificate. So there is no token in it, and nothing secret.

    FOLDER/default.json      the secret `default` as Envoy reads it: where chain and key are
    FOLDER/cert-chain.pem, key.pem, root-cert.pem      see certificate_files

The key never leaves FOLDER. What proves everybody else, `ROOTCA`, comes over ADS.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from meshlib.runtime.certificate_files import CertificateFolder
from meshlib.runtime.node import node_cluster, node_id, node_locality, node_metadata, served
from meshlib.runtime.settings import Settings

IDENTITY_FILE: Final = "default.json"
CONTROL_PLANE: Final = "xds"

_TYPE: Final = "type.googleapis.com/"
_TLS: Final = _TYPE + "envoy.extensions.transport_sockets.tls.v3."
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED: Final = 2**31 - 1

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """How an Envoy is run.

    Args:
        admin: `host:port` of its administration; port 0 takes any free one.
        delta: the incremental variant of ADS, otherwise state of the world.
        transparent: connections are redirected to it (iptables, nftables); otherwise programs are told where it listens.
        explicit_ports: without redirection: service port -> port of loopback to listen on, 0 for any free one; None: each
            service port under its own number.
        http_proxy_port: a port of loopback for all services; None: none.
        local_port: where the program behind it listens on loopback; 0: at the port that others call.
    """

    admin: str = "127.0.0.1:15000"
    delta: bool = True
    transparent: bool = True
    explicit_ports: Mapping[int, int] | None = None
    http_proxy_port: int | None = None
    local_port: int = 0


_RUNTIME: Json = {
    # Envoy's own limit on the size of regular expressions, 100, is below what people write (Istio).
    "re2.max_program_size.error_level": 32768,
    # A fragment is cut off instead of refused (Istio).
    "envoy.reloadable_features.http_reject_path_with_fragment": False,
}


def bootstrap(
    settings: Settings, address: str, folder: CertificateFolder, options: EnvoyOptions, target_port: int = 0
) -> Json:
    """A bootstrap, to be written as JSON.

    Args:
        settings: who it is and where the control plane is.
        address: the IP address under which others reach it.
        folder: where certificate, key and roots are kept fresh; see also `write_identity_file`.
        target_port: the port that others call, with which `settings.service` is registered. 0: a pure client.
    """
    return {
        "node": {
            "id": node_id("sidecar", settings, address),
            "cluster": node_cluster(settings),
            "locality": node_locality(settings),
            "metadata": _metadata(settings, address, folder, options, target_port),
        },
        "admin": {"address": _address(options.admin)},
        "dynamic_resources": _dynamic_resources(options),
        "static_resources": {"clusters": [_control_plane(settings.control_plane_mtls, folder)]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "overload_manager": {"resource_monitors": [_no_connection_limit()]},
    }


def write_identity_file(folder: CertificateFolder) -> Path:
    """Tell Envoy which files are its certificate. Once is enough: the files are watched.

    Returns:
        The file, to be named to the control plane.
    """
    certificate = {
        "certificate_chain": {"filename": str(folder.chain)},
        "private_key": {"filename": str(folder.key)},
        # Reloads when something is moved into the folder, as every renewal does.
        "watched_directory": {"path": str(folder.path)},
    }
    secret = {"@type": _TLS + "Secret", "name": "default", "tls_certificate": certificate}
    path = folder.path / IDENTITY_FILE
    path.write_text(json.dumps({"resources": [secret]}, indent=2))
    return path


def _metadata(settings: Settings, address: str, folder: CertificateFolder, options: EnvoyOptions, target_port: int) -> Json:
    services = [
        {**entry, "local_port": options.local_port} if options.local_port else entry for entry in served(settings, target_port)
    ]
    metadata = {
        **node_metadata("envoy", settings, address, services),
        "INTERCEPTION_MODE": "REDIRECT" if options.transparent else "NONE",
        "MESHLIB_IDENTITY_FILE": str(folder.path / IDENTITY_FILE),
    }
    if options.explicit_ports is not None:
        metadata["MESHLIB_EXPLICIT_PORTS"] = {str(port): local for port, local in options.explicit_ports.items()}
    if options.http_proxy_port is not None:
        metadata["HTTP_PROXY_PORT"] = str(options.http_proxy_port)
    return metadata


def _dynamic_resources(options: EnvoyOptions) -> Json:
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC" if options.delta else "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE, "retry_policy": _patience()}}],
        },
        "cds_config": ads,
        "lds_config": ads,
    }


def _patience() -> Json:
    # Envoy's own is up to 30 s; it draws each wait at random below the doubled one, so a mesh does not come back as one.
    return {"retry_back_off": {"base_interval": "0.2s", "max_interval": "5s"}}


def _control_plane(where: str, folder: CertificateFolder) -> Json:
    host, _, _ = where.rpartition(":")
    literal = _is_ip(host)
    return {
        "name": CONTROL_PLANE,
        "type": "STATIC" if literal else "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": CONTROL_PLANE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(where)}}]}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": _TYPE + _HTTP_OPTIONS,
                # A control plane that vanished without closing is noticed.
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
                },
            }
        },
        "transport_socket": _proving_each_other(host.strip("[]"), literal, folder),
    }


def _proving_each_other(host: str, literal: bool, folder: CertificateFolder) -> Json:
    watched = {"path": str(folder.path)}
    name = {"san_type": "IP_ADDRESS" if literal else "DNS", "matcher": {"exact": host}}
    context: Json = {
        "@type": _TLS + "UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificate_sds_secret_configs": [
                {
                    "name": "default",
                    "sds_config": {
                        "path_config_source": {"path": str(folder.path / IDENTITY_FILE), "watched_directory": watched},
                        "resource_api_version": "V3",
                    },
                }
            ],
            "validation_context": {
                "trusted_ca": {"filename": str(folder.roots)},
                "watched_directory": watched,
                "match_typed_subject_alt_names": [name],
            },
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context if literal else {**context, "sni": host}}


def _no_connection_limit() -> Json:
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": _TYPE + kind, "max_active_downstream_connections": _UNLIMITED},
    }


def _address(text: str) -> Json:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
