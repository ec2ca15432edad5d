"""The bootstrap of gRPC's own xDS client, in any language: where the control plane is, who we are, where the certificates are.

Format: gRFC A27 (xds_servers, node), A29 (certificate_providers), A36 (server listener template), A65 (channel_creds `tls`).
Nothing here is specific to Python.
"""

from __future__ import annotations

from typing import Any

from meshlib.runtime.certificate_files import CertificateFolder
from meshlib.runtime.node import node_cluster, node_id, node_locality, node_metadata, served
from meshlib.runtime.settings import Settings

PROVIDER = "default"
"""The certificate provider that the control plane's resources name."""
LISTENER_TEMPLATE = "xds.istio.io/grpc/lds/inbound/%s"
"""Istio's; `%s` becomes the address as it was given to the server."""


def bootstrap(settings: Settings, address: str, folder: CertificateFolder, target_port: int = 0) -> dict[str, Any]:
    """A bootstrap, to be written as JSON.

    Args:
        settings: who we are and where the control plane is.
        address: the IP address under which others reach us.
        folder: where certificate, key and roots are kept fresh.
        target_port: where a server of this process listens; with it, `settings.service` is registered. 0: a pure client.
    """
    files = {
        "certificate_file": str(folder.chain),
        "private_key_file": str(folder.key),
        "ca_certificate_file": str(folder.roots),
        "refresh_interval": f"{refresh_interval(settings.certificate_lifetime)}s",
    }
    return {
        "xds_servers": [
            {
                "server_uri": settings.control_plane_mtls,
                # By certificate: no language's client can send a token here without an experimental switch.
                "channel_creds": [{"type": "tls", "config": files}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": node_id("grpc", settings, address),
            "cluster": node_cluster(settings),
            "locality": node_locality(settings),
            # What an xDS-enabled gRPC server serves is gRPC, whatever other servers of the process speak.
            "metadata": node_metadata("grpc", settings, address, served(settings, target_port, "grpc")),
        },
        "certificate_providers": {PROVIDER: {"plugin_name": "file_watcher", "config": files}},
        "server_listener_resource_name_template": LISTENER_TEMPLATE,
    }


def refresh_interval(lifetime: float) -> int:
    """How often the files are to be read, seconds: often enough for the certificate's life, at least once a minute.

    gRPC's own default of ten minutes is longer than the second half of a short-lived certificate.
    """
    return int(max(1, min(60, lifetime // 100)))
