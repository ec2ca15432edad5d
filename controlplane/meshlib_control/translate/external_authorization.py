"""Authorizers outside of the mesh: MeshConfig's providers as Envoy's ext_authz filters. Istio: authz/builder/extauthz.go.

The filter asks only about what a filter of shadow rules before it has marked in the dynamic metadata: CUSTOM holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib_control.kinds.extension_provider import DEFAULT_TIMEOUT, ExtAuthzGrpc, ExtAuthzHttp
from meshlib_control.model import Service, World
from meshlib_control.names import ClusterName
from meshlib_control.translate.build import duration

Json = dict[str, Any]

MARK: Final = "istio-ext-authz"
"""What the names of CUSTOM's policies begin with, and the marks with them."""
STAT_PREFIX: Final = "istio_ext_authz_"

_HTTP: Final = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
_NETWORK: Final = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"


def authorizer(world: World, name: str) -> ExtAuthzGrpc | ExtAuthzHttp | None:
    """The provider of a name; None: there is none, or its service is not in the mesh."""
    found = next((one.authorizer for one in world.mesh.extension_providers if one.name == name), None)
    return None if found is None or _cluster(world, found) is None else found


def http_filter(world: World, name: str, found: ExtAuthzGrpc) -> Json:
    """The filter that asks a provider about requests."""
    config: Json = {
        "failure_mode_allow": found.fail_open,
        "transport_api_version": "V3",
        "filter_enabled_metadata": _marked("envoy.filters.http.rbac", name),
        **({"status_on_error": {"code": int(found.status_on_error)}} if found.status_on_error else {}),
        **_body(found),
        **(_http_service(world, found) if isinstance(found, ExtAuthzHttp) else _grpc_service(world, found)),
    }
    return {"name": "envoy.filters.http.ext_authz", "typed_config": pack(message(_HTTP)(**config))}


def network_filter(world: World, name: str, found: ExtAuthzGrpc) -> Json | None:
    """The filter that asks about connections; None: by HTTP nobody can be asked about them."""
    if isinstance(found, ExtAuthzHttp):
        return None
    config = {
        "stat_prefix": "tcp.",
        "failure_mode_allow": found.fail_open,
        "transport_api_version": "V3",
        "filter_enabled_metadata": _marked("envoy.filters.network.rbac", name),
        **_grpc_service(world, found),
    }
    return {"name": "envoy.filters.network.ext_authz", "typed_config": pack(message(_NETWORK)(**config))}


def _cluster(world: World, found: ExtAuthzGrpc) -> ClusterName | None:
    namespace, _, host = found.service.rpartition("/")
    service: Service | None = world.services.get(host.lower())
    if service is None or namespace not in ("", service.namespace):
        return None
    return ClusterName(found.port, "", service.hostname) if any(one.number == found.port for one in service.ports) else None


def _grpc_service(world: World, found: ExtAuthzGrpc) -> Json:
    cluster = _cluster(world, found)
    assert cluster is not None
    target = {"cluster_name": str(cluster), "authority": cluster.host}
    return {"grpc_service": {"envoy_grpc": target, "timeout": _timeout(found)}}


def _http_service(world: World, found: ExtAuthzHttp) -> Json:
    cluster = _cluster(world, found)
    assert cluster is not None
    added = [{"key": name, "value": value} for name, value in sorted(found.include_additional_headers_in_check.items())]
    response = {
        "allowed_upstream_headers": _names(found.headers_to_upstream_on_allow),
        "allowed_client_headers": _names(found.headers_to_downstream_on_deny),
        "allowed_client_headers_on_success": _names(found.headers_to_downstream_on_allow),
    }
    response = {field: names for field, names in response.items() if names}
    allowed = _names(found.include_request_headers_in_check or found.include_headers_in_check)
    service = {
        "server_uri": {"uri": f"http://{cluster.host}", "cluster": str(cluster), "timeout": _timeout(found)},
        "path_prefix": found.path_prefix,
        **({"authorization_request": {"headers_to_add": added}} if added else {}),
        **({"authorization_response": response} if response else {}),
    }
    return {"http_service": service, **({"allowed_headers": allowed} if allowed else {})}


def _timeout(found: ExtAuthzGrpc) -> dict[str, int]:
    return duration(DEFAULT_TIMEOUT if found.timeout is None else found.timeout)


def _body(found: ExtAuthzGrpc) -> Json:
    body = found.include_request_body_in_check
    if body is None:
        return {}
    settings = {
        "max_request_bytes": body.max_request_bytes,
        "allow_partial_message": body.allow_partial_message,
        "pack_as_bytes": body.pack_as_bytes,
    }
    return {"with_request_body": settings}


def _names(names: Sequence[str]) -> Json:
    return {"patterns": [{"ignore_case": True, **_pattern(name)} for name in names]} if names else {}


def _pattern(name: str) -> Json:
    if name.startswith("*"):
        return {"suffix": name[1:]}
    return {"prefix": name[:-1]} if name.endswith("*") else {"exact": name}


def _marked(filter_name: str, provider: str) -> Json:
    key = f"{STAT_PREFIX}shadow_effective_policy_id"
    value = {"string_match": {"prefix": f"{MARK}-{provider}"}}
    return {"filter": filter_name, "path": [{"key": key}], "value": value}
