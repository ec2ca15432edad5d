"""MeshConfig (istio/api, mesh/v1alpha1): the fields that are understood, and the names of all others."""

from __future__ import annotations

from typing import Final, Literal

from meshlib_control.kinds.base import NonEmpty, Spec
from meshlib_control.kinds.extension_provider import ExtensionProvider

Normalization = Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]


class PathNormalization(Spec, frozen=True):
    """What happens to the paths of requests before anything is decided about them."""

    normalization: Normalization = "DEFAULT"


class MeshConfig(Spec, frozen=True):
    """What holds for the mesh as a whole.

    `trust_domain` and `root_namespace` are here to be compared with what the control plane was started with.
    """

    trust_domain: str = ""
    trust_domain_aliases: tuple[NonEmpty, ...] = ()
    root_namespace: str = ""
    path_normalization: PathNormalization = PathNormalization()
    extension_providers: tuple[ExtensionProvider, ...] = ()


# fmt: off
OTHER_FIELDS: Final = frozenset((
    "accessLogEncoding", "accessLogFile", "accessLogFormat", "ca", "caCertificates", "certificates", "configSources",
    "connectTimeout", "defaultConfig", "defaultDestinationRuleExportTo", "defaultHttpRetryPolicy", "defaultProviders",
    "defaultServiceExportTo", "defaultTrafficPolicy", "defaultVirtualServiceExportTo", "disableEnvoyListenerLog",
    "discoverySelectors", "dnsRefreshRate", "enableAutoMtls", "enableEnvoyAccessLogService", "enablePrometheusMerge",
    "enableTracing", "h2UpgradePolicy", "hboneIdleTimeout", "inboundClusterStatName",
    "inboundTrafficPolicy", "ingressClass", "ingressControllerMode", "ingressSelector", "ingressService",
    "localityLbSetting", "meshMTLS", "outboundClusterStatName", "outboundTrafficPolicy", "protocolDetectionTimeout",
    "proxyHttpPort", "proxyInboundListenPort", "proxyListenPort", "serviceEntryVisibility", "serviceScopeConfigs",
    "serviceSettings", "tcpKeepalive", "tlsDefaults", "verifyCertificateAtClient", "zoneAwareLbSetting",
))
# fmt: on
"""Fields of Istio that are accepted and do nothing yet."""
