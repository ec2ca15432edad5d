"""Envoy's ext_authz filter -> `meshlib.config.ext_authz`. Part of `decode`, and under its rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config.decode_fields import target_of_cluster
from meshlib.config.decode_match import string_match
from meshlib.config.decode_metadata import metadata
from meshlib.config.ext_authz import BodyInCheck, ExtAuthz, GrpcAuthorizer, HttpAuthorizer, Names
from meshlib.errors import ConfigurationError
from meshlib.facts import Headers

DEFAULT_GRPC_TIMEOUT = 0.2  # seconds; Envoy's

# Those without a meaning here, too: there is no route to be chosen anew, and statistics of Envoy's are not kept.
_KNOWN = frozenset(
    {"grpc_service", "http_service", "transport_api_version", "failure_mode_allow", "failure_mode_allow_header_add"}
    | {"with_request_body", "clear_route_cache", "status_on_error", "metadata_context_namespaces", "filter_enabled_metadata"}
    | {"stat_prefix", "allowed_headers", "charge_cluster_response_stats"}
)


def ext_authz(body: Any, place: str) -> ExtAuthz:
    """The filter envoy.filters.http.ext_authz. Raises ConfigurationError for what we would not obey."""
    _only(body, _KNOWN, place)
    return ExtAuthz(
        service=_service(body, place),
        when=metadata(body.filter_enabled_metadata, f"{place}.filter_enabled_metadata")
        if body.HasField("filter_enabled_metadata")
        else None,
        fail_open=body.failure_mode_allow,
        marked=body.failure_mode_allow_header_add,
        error_status=body.status_on_error.code or 403,
        allowed=_names(body.allowed_headers, f"{place}.allowed_headers") if body.HasField("allowed_headers") else None,
        body=_body(body.with_request_body, place) if body.HasField("with_request_body") else None,
        namespaces=tuple(body.metadata_context_namespaces),
    )


def _only(body: Any, known: Iterable[str], place: str) -> None:
    for field, _ in body.ListFields():
        if field.name not in known:
            raise ConfigurationError("is not supported", field=f"{place}.{field.name}")


def _service(body: Any, place: str) -> GrpcAuthorizer | HttpAuthorizer:
    match body.WhichOneof("services"):
        case "grpc_service":
            service, where = body.grpc_service, f"{place}.grpc_service"
            timeout = fields.timeout(service, "timeout", DEFAULT_GRPC_TIMEOUT, where)
            return GrpcAuthorizer(_grpc_target(service, where), timeout or 0.0)
        case "http_service":
            return _http(body.http_service, f"{place}.http_service")
        case _:
            raise ConfigurationError("one of grpc_service and http_service must be set", field=place)


def _grpc_target(service: Any, place: str) -> str:
    target = str(service.google_grpc.target_uri)
    return target or target_of_cluster(service.envoy_grpc.cluster_name, place)


def _http(service: Any, place: str) -> HttpAuthorizer:
    _only(service, {"server_uri", "path_prefix", "authorization_request", "authorization_response"}, place)
    _only(service.authorization_request, {"headers_to_add"}, f"{place}.authorization_request")
    response, where = service.authorization_response, f"{place}.authorization_response"
    _only(response, {field.name for field in response.DESCRIPTOR.fields} - {"dynamic_metadata_from_headers"}, where)
    return HttpAuthorizer(
        target=target_of_cluster(service.server_uri.cluster, f"{place}.server_uri.cluster"),
        timeout=fields.seconds(service.server_uri, "timeout", f"{place}.server_uri"),
        path_prefix=service.path_prefix,
        added=_added(service.authorization_request.headers_to_add, f"{place}.authorization_request.headers_to_add"),
        to_application=_names(response.allowed_upstream_headers, f"{where}.allowed_upstream_headers"),
        appended=_names(response.allowed_upstream_headers_to_append, f"{where}.allowed_upstream_headers_to_append"),
        to_client=_names(response.allowed_client_headers, f"{where}.allowed_client_headers"),
        to_client_on_success=_names(response.allowed_client_headers_on_success, f"{where}.allowed_client_headers_on_success"),
    )


def _names(matchers: Any, place: str) -> Names:
    return tuple(string_match(one, f"{place}.patterns[{index}]") for index, one in enumerate(matchers.patterns))


def _added(headers: Iterable[Any], place: str) -> Headers:
    return tuple((one.key.lower(), fields.plain(one.value, f"{place}[{index}]")) for index, one in enumerate(headers))


def _body(settings: Any, place: str) -> BodyInCheck:
    if not settings.max_request_bytes:
        raise ConfigurationError("must be 1 or more", field=f"{place}.with_request_body.max_request_bytes")
    return BodyInCheck(settings.max_request_bytes, settings.allow_partial_message, settings.pack_as_bytes)
