"""The names that people give to kinds: `vs`, `virtualservice`, `virtualservices`, `VirtualService`."""

from __future__ import annotations

from .failure import USAGE, Failure

# Plural and short names of the kinds as Istio's and Gateway API's CRDs, and kubectl, declare them.
_KINDS = {
    "VirtualService": ("virtualservices", "vs"),
    "DestinationRule": ("destinationrules", "dr"),
    "ServiceEntry": ("serviceentries", "se"),
    "Gateway": ("gateways", "gw"),
    "Sidecar": ("sidecars",),
    "WorkloadEntry": ("workloadentries", "we"),
    "WorkloadGroup": ("workloadgroups", "wg"),
    "EnvoyFilter": ("envoyfilters",),
    "ProxyConfig": ("proxyconfigs",),
    "PeerAuthentication": ("peerauthentications", "pa"),
    "RequestAuthentication": ("requestauthentications", "ra"),
    "AuthorizationPolicy": ("authorizationpolicies", "ap"),
    "RateLimit": ("ratelimits",),
    "Telemetry": ("telemetries", "telemetry"),
    "WasmPlugin": ("wasmplugins",),
    "TrafficExtension": ("trafficextensions",),
    "HTTPRoute": ("httproutes",),
    "GRPCRoute": ("grpcroutes",),
    "ConfigMap": ("configmaps", "cm"),
    "Role": ("roles",),
    "RoleBinding": ("rolebindings",),
    "ClusterRole": ("clusterroles",),
    "ClusterRoleBinding": ("clusterrolebindings",),
    "Service": ("services", "svc"),
    "ServiceAccount": ("serviceaccounts", "sa"),
    "Namespace": ("namespaces", "ns"),
    "Deployment": ("deployments", "deploy"),
    "Secret": ("secrets",),
    "Pod": ("pods", "po"),
}
_BY_NAME = {name: kind for kind, names in _KINDS.items() for name in (kind.lower(), *names)}


def kind_of(name: str) -> str:
    """The kind that a name stands for; `networking.istio.io` after a dot is allowed, as kubectl prints it.

    Raises:
        Failure: no such kind; suggests the nearest.
    """
    kind = _BY_NAME.get(name.lower().partition(".")[0])
    if kind is None:
        raise Failure(f"there is no kind {name!r}", f"meshlib get {_nearest(name)}", USAGE)
    return kind


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name.lower(), [names[0] for names in _KINDS.values()], 1)), "all")
