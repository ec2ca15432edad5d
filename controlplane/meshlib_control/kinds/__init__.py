"""Which kinds the control plane knows, and the struct of each one's spec.

A kind without a struct is kept as it was written: Gateway API (not effective yet) and what Kubernetes itself uses and the
stand-alone control plane has no use for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshlib_control.kinds.base import Duration, DurationOrZero, Spec, parse_duration
from meshlib_control.kinds.common import Destination, Percent, StringMatch, WorkloadSelector
from meshlib_control.kinds.destination_rule import DestinationRule
from meshlib_control.kinds.extensions import EnvoyFilter, ProxyConfig, TrafficExtension, WasmPlugin
from meshlib_control.kinds.gateway import Gateway, Sidecar
from meshlib_control.kinds.mesh_config import MeshConfig
from meshlib_control.kinds.rate_limit import RateLimit
from meshlib_control.kinds.security import AuthorizationPolicy, PeerAuthentication, RequestAuthentication
from meshlib_control.kinds.service_entry import ServiceEntry, WorkloadEntry, WorkloadGroup
from meshlib_control.kinds.telemetry import Telemetry
from meshlib_control.kinds.virtual_service import VirtualService

__all__ = [
    "KINDS",
    "RBAC",
    "AuthorizationPolicy",
    "Destination",
    "DestinationRule",
    "Duration",
    "DurationOrZero",
    "EnvoyFilter",
    "Gateway",
    "Kind",
    "MeshConfig",
    "PeerAuthentication",
    "Percent",
    "ProxyConfig",
    "RateLimit",
    "RequestAuthentication",
    "ServiceEntry",
    "Sidecar",
    "Spec",
    "StringMatch",
    "Telemetry",
    "TrafficExtension",
    "VirtualService",
    "WasmPlugin",
    "WorkloadEntry",
    "WorkloadGroup",
    "WorkloadSelector",
    "parse_duration",
]

NETWORKING: Final = "networking.istio.io"
SECURITY: Final = "security.istio.io"
TELEMETRY: Final = "telemetry.istio.io"
EXTENSIONS: Final = "extensions.istio.io"
GATEWAY_API: Final = "gateway.networking.k8s.io"
MESHLIB: Final = "meshlib.dev"
RBAC: Final = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a kind.

    Args:
        versions: of its API group, the one to write first.
        spec: the struct; None keeps the object as written.
        needs_spec: a document without `spec` is refused.
        namespaced: False for what belongs to the whole cluster.
    """

    group: str
    name: str
    versions: tuple[str, ...]
    spec: type[Spec] | None = None
    needs_spec: bool = False
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What to write in `apiVersion`."""
        return f"{self.group}/{self.versions[0]}" if self.group else self.versions[0]


_ALL_VERSIONS: Final = ("v1", "v1beta1", "v1alpha3")

_ISTIO: Final = (
    *(
        Kind(NETWORKING, spec.__name__, _ALL_VERSIONS, spec, needs_spec)
        for spec, needs_spec in (
            (VirtualService, False),
            (DestinationRule, False),
            (ServiceEntry, True),
            (WorkloadEntry, True),
            (WorkloadGroup, True),
            (Gateway, False),
            (Sidecar, False),
        )
    ),
    Kind(NETWORKING, "EnvoyFilter", ("v1alpha3",), EnvoyFilter),
    Kind(NETWORKING, "ProxyConfig", ("v1beta1",), ProxyConfig),
    *(
        Kind(SECURITY, spec.__name__, ("v1", "v1beta1"), spec)
        for spec in (PeerAuthentication, RequestAuthentication, AuthorizationPolicy)
    ),
    Kind(TELEMETRY, "Telemetry", ("v1", "v1alpha1"), Telemetry),
    Kind(EXTENSIONS, "WasmPlugin", ("v1alpha1",), WasmPlugin, needs_spec=True),
    Kind(EXTENSIONS, "TrafficExtension", ("v1alpha1",), TrafficExtension, needs_spec=True),
)


_MESHLIB: Final = (Kind(MESHLIB, "RateLimit", ("v1",), RateLimit, needs_spec=True),)


def _kept(group: str, versions: tuple[str, ...], *names: str, namespaced: bool = True) -> list[Kind]:
    return [Kind(group, name, versions, namespaced=namespaced) for name in names]


_GATEWAY_API: Final = (
    *_kept(GATEWAY_API, ("v1", "v1beta1"), "HTTPRoute", "Gateway"),
    *_kept(GATEWAY_API, ("v1", "v1alpha2"), "GRPCRoute"),
    *_kept(GATEWAY_API, ("v1", "v1beta1"), "GatewayClass", namespaced=False),
    *_kept(GATEWAY_API, ("v1", "v1alpha3", "v1alpha2"), "TLSRoute", "BackendTLSPolicy"),
    *_kept(GATEWAY_API, ("v1alpha2",), "TCPRoute", "UDPRoute"),
    *_kept(GATEWAY_API, ("v1", "v1beta1", "v1alpha2"), "ReferenceGrant"),
    *_kept(GATEWAY_API, ("v1",), "ListenerSet"),
)

_KUBERNETES: Final = (
    *_kept("", ("v1",), "Service", "ServiceAccount", "Pod", "ConfigMap", "Secret", "Endpoints", "PersistentVolumeClaim"),
    *_kept("", ("v1",), "Namespace", "PersistentVolume", "Node", namespaced=False),
    *_kept("apps", ("v1",), "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"),
    *_kept("batch", ("v1",), "Job", "CronJob"),
    *_kept("networking.k8s.io", ("v1",), "Ingress", "NetworkPolicy"),
    *_kept("networking.k8s.io", ("v1",), "IngressClass", namespaced=False),
    *_kept("autoscaling", ("v2", "v1"), "HorizontalPodAutoscaler"),
    *_kept("policy", ("v1",), "PodDisruptionBudget"),
    *_kept("discovery.k8s.io", ("v1",), "EndpointSlice"),
    *_kept(RBAC, ("v1",), "Role", "RoleBinding"),
    *_kept(RBAC, ("v1",), "ClusterRole", "ClusterRoleBinding", namespaced=False),
)

KINDS: Final[Mapping[tuple[str, str], Kind]] = {
    (kind.group, kind.name): kind for kind in (*_ISTIO, *_MESHLIB, *_GATEWAY_API, *_KUBERNETES)
}
"""Every known kind by API group and name."""
