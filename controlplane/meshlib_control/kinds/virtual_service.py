"""VirtualService (networking.istio.io)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from meshlib_control.kinds.base import Duration, Int32, Spec, UInt32
from meshlib_control.kinds.common import Destination, Headers, Percent, StringMatch


class HttpMatch(Spec, frozen=True):
    """Conditions on a request; all of them must hold."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch] = {}
    without_headers: Mapping[str, StringMatch] = {}
    query_params: Mapping[str, StringMatch] = {}
    ignore_uri_case: bool = False
    port: UInt32 = 0
    source_labels: Mapping[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


class HttpRouteDestination(Spec, frozen=True):
    """A share of the traffic. A weight of 0 gets none if there are several."""

    destination: Destination
    weight: Int32 = 0
    headers: Headers | None = None


class HttpRedirect(Spec, frozen=True):
    """An answer that sends the client elsewhere."""

    one_of: ClassVar = (("port", "derivePort"),)

    uri: str = ""
    authority: str = ""
    scheme: str = ""
    port: UInt32 | None = None
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    redirect_code: UInt32 = 0
    prefix_rewrite: str = ""


class DirectBody(Spec, frozen=True):
    """The body of a direct response; `bytes` is base64."""

    one_of: ClassVar = (("string", "bytes"),)

    string: str | None = None
    encoded: str | None = msgspec.field(default=None, name="bytes")

    def content(self) -> bytes:
        """The bytes to send.

        Raises:
            ValueError: `bytes` is not base64.
        """
        if self.encoded is not None:
            return base64.b64decode(self.encoded, validate=True)
        return (self.string or "").encode()


class HttpDirectResponse(Spec, frozen=True):
    """An answer that the mesh gives by itself."""

    status: UInt32
    body: DirectBody | None = None


class RegexRewrite(Spec, frozen=True):
    """What `match` finds is replaced by `rewrite`, in which a backslash and a digit is a group."""

    match: str = ""
    rewrite: str = ""


class HttpRewrite(Spec, frozen=True):
    """A change of path or authority before the request is sent on."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class Delegate(Spec, frozen=True):
    """Another VirtualService that holds the routes."""

    name: str = ""
    namespace: str = ""


class HttpRetry(Spec, frozen=True):
    """Tries after the first one; `attempts` of 0 turns retries off."""

    attempts: Int32 = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class FaultDelay(Spec, frozen=True):
    """Holds requests back. `percent` is the deprecated whole number."""

    one_of: ClassVar = (("fixedDelay", "exponentialDelay"),)

    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None
    percentage: Percent | None = None
    percent: Int32 = 0


class FaultAbort(Spec, frozen=True):
    """Answers requests with an error."""

    one_of: ClassVar = (("httpStatus", "grpcStatus", "http2Error"),)

    http_status: Int32 | None = None
    grpc_status: str | None = None
    http2_error: str | None = msgspec.field(default=None, name="http2Error")
    percentage: Percent | None = None


class HttpFault(Spec, frozen=True):
    """Faults put in on purpose; delay and abort are drawn independently."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class HttpMirror(Spec, frozen=True):
    """A copy of the traffic whose answers nobody waits for."""

    destination: Destination
    percentage: Percent | None = None


class CorsPolicy(Spec, frozen=True):
    """Cross-origin resource sharing. `allow_origin` is the deprecated list of exact origins."""

    allow_origins: tuple[StringMatch, ...] = ()
    allow_origin: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"


class HttpRoute(Spec, frozen=True):
    """One rule: if any of `match` holds (none: always), do this."""

    name: str = ""
    match: tuple[HttpMatch, ...] = ()
    route: tuple[HttpRouteDestination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_response: HttpDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HttpRewrite | None = None
    timeout: Duration | None = None
    retries: HttpRetry | None = None
    fault: HttpFault | None = None
    mirror: Destination | None = None
    mirrors: tuple[HttpMirror, ...] = ()
    mirror_percent: UInt32 | None = None
    mirror_percent_snake: UInt32 | None = msgspec.field(default=None, name="mirror_percent")
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class L4Match(Spec, frozen=True):
    """Conditions on a connection."""

    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_subnet: str = ""
    source_labels: Mapping[str, str] = {}
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class TlsMatch(Spec, frozen=True):
    """Conditions on a TLS connection that is passed through."""

    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: Mapping[str, str] = {}
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


class RouteDestination(Spec, frozen=True):
    """A share of the connections."""

    destination: Destination
    weight: Int32 = 0


class TcpRoute(Spec, frozen=True):
    """One rule for connections."""

    match: tuple[L4Match, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class TlsRoute(Spec, frozen=True):
    """One rule for TLS connections, by server name."""

    match: tuple[TlsMatch, ...]
    route: tuple[RouteDestination, ...] = ()


class VirtualService(Spec, frozen=True):
    """How requests for `hosts` are routed."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HttpRoute, ...] = ()
    tls: tuple[TlsRoute, ...] = ()
    tcp: tuple[TcpRoute, ...] = ()
    export_to: tuple[str, ...] = ()
