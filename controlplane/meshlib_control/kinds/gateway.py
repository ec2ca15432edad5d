"""Gateway and Sidecar (networking.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from meshlib_control.kinds.base import Spec, UInt32
from meshlib_control.kinds.common import Destination, TlsVersion, WorkloadSelector
from meshlib_control.kinds.destination_rule import ConnectionPool

CaptureMode = Literal["DEFAULT", "IPTABLES", "NONE"]


class GatewayPort(Spec, frozen=True):
    """A port that a gateway listens on."""

    number: UInt32
    protocol: str
    name: str
    target_port: UInt32 = 0


class TlsCertificate(Spec, frozen=True):
    """A certificate in files."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTls(Spec, frozen=True):
    """TLS that a gateway or sidecar ends."""

    https_redirect: bool = False
    mode: Literal["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"] = "PASSTHROUGH"
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: Annotated[tuple[str, ...], Meta(min_length=1, max_length=2)] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: Annotated[tuple[TlsCertificate, ...], Meta(min_length=1, max_length=2)] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TlsVersion = "TLS_AUTO"
    max_protocol_version: TlsVersion = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()
    insecure_skip_verify: bool | None = None


class Server(Spec, frozen=True):
    """A listener of a gateway; a host may be written `namespace/host`."""

    port: GatewayPort
    hosts: tuple[str, ...]
    bind: str = ""
    tls: ServerTls | None = None
    default_endpoint: str = ""
    name: str = ""


class Gateway(Spec, frozen=True):
    """Where traffic enters or leaves the mesh."""

    servers: tuple[Server, ...] = ()
    selector: Mapping[str, str] = {}


class SidecarPort(Spec, frozen=True):
    """A port of a sidecar's listener."""

    number: UInt32 = 0
    protocol: str = ""
    name: str = ""
    target_port: UInt32 = 0


class IngressListener(Spec, frozen=True):
    """A port that a workload serves."""

    port: SidecarPort
    bind: str = ""
    capture_mode: CaptureMode = "DEFAULT"
    default_endpoint: str = ""
    tls: ServerTls | None = None
    connection_pool: ConnectionPool | None = None


class EgressListener(Spec, frozen=True):
    """Hosts that a workload may call, `namespace/host`."""

    hosts: tuple[str, ...]
    port: SidecarPort | None = None
    bind: str = ""
    capture_mode: CaptureMode = "DEFAULT"


class OutboundTrafficPolicy(Spec, frozen=True):
    """What happens to hosts that the mesh does not know."""

    mode: Literal["REGISTRY_ONLY", "ALLOW_ANY"] = "REGISTRY_ONLY"
    egress_proxy: Destination | None = None


class Sidecar(Spec, frozen=True):
    """What a workload sees of the mesh."""

    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IngressListener, ...] = ()
    egress: tuple[EgressListener, ...] = ()
    inbound_connection_pool: ConnectionPool | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
