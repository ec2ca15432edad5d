"""Extension providers of MeshConfig (istio/api, mesh/v1alpha1): who answers for the mesh from outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from meshlib_control.kinds.base import Duration, NonEmpty, Port, Spec, UInt32

DEFAULT_TIMEOUT = 600.0  # seconds; Istio's: the route to the service is meant to say how long
ProviderName = Annotated[str, Meta(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class RequestBodyInCheck(Spec, frozen=True):
    """What an authorizer sees of a request's body.

    Args:
        max_request_bytes: at most so many.
        allow_partial_message: a longer one is cut; else it is refused with 413.
        pack_as_bytes: as bytes; else as text. Only gRPC knows a difference.
    """

    max_request_bytes: UInt32 = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class ExtAuthzGrpc(Spec, frozen=True):
    """An authorizer that speaks envoy.service.auth.v3.

    Args:
        service: `ext-authz.foo.svc.cluster.local` or `foo/ext-authz.foo.svc.cluster.local`.
        fail_open: without an answer a request may enter.
        status_on_error: of the answer if it may not; default 403.
    """

    service: NonEmpty
    port: Port
    timeout: Duration | None = None
    fail_open: bool = False
    status_on_error: str = ""
    include_request_body_in_check: RequestBodyInCheck | None = None


class ExtAuthzHttp(ExtAuthzGrpc, frozen=True):
    """An authorizer that answers HTTP requests: 200 lets in, everything else is the answer to the client.

    Names of headers may begin or end with `*`.

    Args:
        path_prefix: stands in front of the request's own path.
        include_headers_in_check: the former name of `include_request_headers_in_check`.
        include_request_headers_in_check: besides method, path, host, content-length and authorization.
        include_additional_headers_in_check: are set in the question.
        headers_to_upstream_on_allow: of the answer, which the application sees.
        headers_to_downstream_on_deny: of the answer, which the client sees; empty: all.
        headers_to_downstream_on_allow: the same of an answer that lets in; empty: none.
    """

    path_prefix: str = ""
    include_headers_in_check: tuple[str, ...] = ()
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = {}
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


class ExtensionProvider(Spec, frozen=True):
    """Somebody with a name. Those for tracing, logs and metrics are accepted, and do nothing yet."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = (("envoyExtAuthzHttp", "envoyExtAuthzGrpc"),)

    name: ProviderName
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
    zipkin: Mapping[str, Any] | None = None
    lightstep: Mapping[str, Any] | None = None
    datadog: Mapping[str, Any] | None = None
    stackdriver: Mapping[str, Any] | None = None
    opencensus: Mapping[str, Any] | None = None
    skywalking: Mapping[str, Any] | None = None
    opentelemetry: Mapping[str, Any] | None = None
    prometheus: Mapping[str, Any] | None = None
    envoy_file_access_log: Mapping[str, Any] | None = None
    envoy_http_als: Mapping[str, Any] | None = None
    envoy_tcp_als: Mapping[str, Any] | None = None
    envoy_otel_als: Mapping[str, Any] | None = None
    sds: Mapping[str, Any] | None = None

    @property
    def authorizer(self) -> ExtAuthzGrpc | ExtAuthzHttp | None:
        """What CUSTOM can ask; None: it is for something else."""
        return self.envoy_ext_authz_grpc or self.envoy_ext_authz_http
