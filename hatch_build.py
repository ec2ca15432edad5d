"""Makes `meshlib/config/messages.binpb`: the protobuf messages that xDS and the CA speak, as one descriptor set.

xds-protos is a build-time requirement only. Installed beside an application it would overwrite files of other packages
(opentelemetry-proto, googleapis-common-protos), so the run time reads this file into a descriptor pool of its own.
"""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = Path("meshlib/config/messages.binpb")

# Roots only; what they import comes along.
MODULES = (
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.listener.v3.api_listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.jwt_authn.v3.config_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.matching.common_inputs.ssl.v3.ssl_inputs_pb2",
    "envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.service.auth.v3.external_auth_pb2",
    "envoy.service.ratelimit.v3.rls_pb2",
    "envoy.service.status.v3.csds_pb2",
    "google.rpc.status_pb2",
)


class MessagesHook(BuildHookInterface[Any]):
    """Writes the descriptor set into the source tree, so that wheel, sdist and editable install find it alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = Path(self.root) / TARGET
        try:
            descriptors = _descriptor_set()
        except ModuleNotFoundError:
            if target.exists():  # building from an sdist that carries it, without xds-protos at hand
                return
            raise
        target.write_bytes(zlib.compress(descriptors, 9))


def _descriptor_set() -> bytes:
    from google.protobuf import descriptor_pb2

    files: dict[str, Any] = {}

    def add(descriptor: Any) -> None:
        if descriptor.name in files:
            return
        for dependency in descriptor.dependencies:
            add(dependency)
        proto = descriptor_pb2.FileDescriptorProto()
        descriptor.CopyToProto(proto)
        files[descriptor.name] = proto

    for module in MODULES:
        add(importlib.import_module(module).DESCRIPTOR)
    descriptor_set = descriptor_pb2.FileDescriptorSet(file=files.values())
    descriptor_set.file.extend([_istio_ca(), _spiffe_workload_api()])
    return descriptor_set.SerializeToString(deterministic=True)


def _istio_ca() -> Any:
    """The messages of istio.v1.auth.IstioCertificateService (istio/api security/v1alpha1/ca.proto)."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    proto = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    request = proto.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    request.field.add(
        name="metadata",
        number=4,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Struct",
        label=field.LABEL_OPTIONAL,
    )
    response = proto.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    return proto


def _spiffe_workload_api() -> Any:
    """The messages of the X.509 profile of SpiffeWorkloadAPI (SPIFFE_Workload_API.md 5.1), which has no package."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    proto = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    proto.message_type.add(name="X509SVIDRequest")
    proto.message_type.add(name="X509BundlesRequest")
    svid = proto.message_type.add(name="X509SVID")
    kinds = {"spiffe_id": field.TYPE_STRING, "hint": field.TYPE_STRING}
    for number, name in enumerate(("spiffe_id", "x509_svid", "x509_svid_key", "bundle", "hint"), 1):
        svid.field.add(name=name, number=number, type=kinds.get(name, field.TYPE_BYTES), label=field.LABEL_OPTIONAL)
    svids = proto.message_type.add(name="X509SVIDResponse")
    svids.field.add(name="svids", number=1, type=field.TYPE_MESSAGE, type_name=".X509SVID", label=field.LABEL_REPEATED)
    svids.field.add(name="crl", number=2, type=field.TYPE_BYTES, label=field.LABEL_REPEATED)
    _add_bundles(svids, "federated_bundles", 3)
    bundles = proto.message_type.add(name="X509BundlesResponse")
    bundles.field.add(name="crl", number=1, type=field.TYPE_BYTES, label=field.LABEL_REPEATED)
    _add_bundles(bundles, "bundles", 2)
    return proto


def _add_bundles(message: Any, name: str, number: int) -> None:
    """A `map<string, bytes>`, as the compiler writes one."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    message.field.add(
        name=name,
        number=number,
        type=field.TYPE_MESSAGE,
        type_name=f".{message.name}.{entry.name}",
        label=field.LABEL_REPEATED,
    )
