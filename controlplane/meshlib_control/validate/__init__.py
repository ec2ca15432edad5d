"""Istio's rules over the fields of one object: what the types of `kinds` cannot say.

One file per kind, each with a `check(object)` that yields every mistake. What objects mean to each other is `analyze`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from meshlib_control import mesh_config
from meshlib_control.mistakes import InvalidObject, Mistake, line_of
from meshlib_control.model import MeshObject
from meshlib_control.validate import (
    access,
    authorization_policy,
    destination_rule,
    envoy_filter,
    extensions,
    gateway,
    peer_authentication,
    rate_limit,
    request_authentication,
    service_entry,
    sidecar,
    telemetry,
    virtual_service,
    workload_entry,
)

__all__ = ["check", "mistakes"]

_CHECKS: Final[Mapping[str, Callable[[MeshObject], Iterator[Mistake]]]] = {
    "AuthorizationPolicy": authorization_policy.check,
    "DestinationRule": destination_rule.check,
    "EnvoyFilter": envoy_filter.check,
    "Gateway": gateway.check,
    "PeerAuthentication": peer_authentication.check,
    "ProxyConfig": extensions.check_proxy_config,
    "RateLimit": rate_limit.check,
    "RequestAuthentication": request_authentication.check,
    "ServiceEntry": service_entry.check,
    "Sidecar": sidecar.check,
    "Telemetry": telemetry.check,
    "TrafficExtension": extensions.check_traffic_extension,
    "VirtualService": virtual_service.check,
    "WasmPlugin": extensions.check_wasm,
    "WorkloadEntry": workload_entry.check,
    "WorkloadGroup": workload_entry.check_group,
}


def mistakes(found: MeshObject) -> list[Mistake]:
    """Everything wrong with an object whose fields have the right types; nothing for kinds that are only kept."""
    if found.key == mesh_config.KEY:
        return list(mesh_config.mistakes(found))
    check_kind = access.check if found.spec is None else _CHECKS[found.key.kind]
    return list(check_kind(found))


def check(found: MeshObject) -> None:
    """Refuses an object that breaks a rule.

    Raises:
        InvalidObject: the first mistake, with file, line, field and what to write instead.
    """
    for mistake in mistakes(found):
        raise InvalidObject(
            mistake.problem,
            suggestion=mistake.suggestion,
            field=mistake.field,
            file=found.file,
            line=line_of(found.lines, mistake.field),
        )
