"""What is accepted but does nothing yet: nothing is ignored silently.

Rule 1: `HONOURED` lists, per kind, the field paths that the engine obeys, with everything below them. `[]` stands for any
        index. A kind that is not listed does nothing at all.
Rule 2: `LIMITS` lists fields that are obeyed for some values only.
Rule 3: a value that means "not set" (false, 0, empty) is not worth a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from meshlib_control import mesh_config
from meshlib_control.kinds import RBAC
from meshlib_control.mistakes import child, item, line_of
from meshlib_control.model import Finding, MeshObject, Severity
from meshlib_control.translate import envoy_filter
from meshlib_control.yaml import walk

NOT_EFFECTIVE: Final = "MSH0001"
NOT_USED: Final = "MSH0002"

_MATCH: Final = "spec.http[].match[]"
_ROUTE: Final = "spec.http[].route[]"
_POLICIES: Final = (
    "spec.trafficPolicy",
    "spec.trafficPolicy.portLevelSettings[]",
    "spec.subsets[].trafficPolicy",
    "spec.subsets[].trafficPolicy.portLevelSettings[]",
)
_POLICY_FIELDS: Final = (
    "port",
    "loadBalancer.simple",
    "tls.mode",
    "tls.subjectAltNames",
    "connectionPool.tcp.connectTimeout",
    "connectionPool.tcp.maxConnections",
    "connectionPool.tcp.tcpKeepalive",
    "connectionPool.tcp.maxConnectionDuration",
    "connectionPool.tcp.idleTimeout",
    "connectionPool.http.http1MaxPendingRequests",
    "connectionPool.http.http2MaxRequests",
    "connectionPool.http.maxRequestsPerConnection",
    "connectionPool.http.maxRetries",
    "connectionPool.http.idleTimeout",
    *(
        f"outlierDetection.{name}"
        for name in (
            "splitExternalLocalOriginErrors",
            "consecutiveLocalOriginFailures",
            "consecutiveGatewayErrors",
            "consecutive5xxErrors",
            "interval",
            "baseEjectionTime",
            "maxEjectionPercent",
            "minHealthPercent",
            "outlierDetectionHttpErrorCodes",
        )
    ),
)

HONOURED: Final[Mapping[str, frozenset[str]]] = {
    "VirtualService": frozenset(
        {
            "spec.hosts",
            "spec.exportTo",
            "spec.gateways",
            "spec.http[].name",
            *(
                f"{_MATCH}.{name}"
                for name in (
                    "name",
                    "uri",
                    "scheme",
                    "method",
                    "authority",
                    "headers",
                    "queryParams",
                    "withoutHeaders",
                    "ignoreUriCase",
                    "sourceLabels",
                    "sourceNamespace",
                    "port",
                    "gateways",
                )
            ),
            f"{_ROUTE}.destination",
            f"{_ROUTE}.weight",
            "spec.http[].timeout",
            "spec.http[].retries.attempts",
            "spec.http[].retries.perTryTimeout",
            "spec.http[].retries.retryOn",
            "spec.http[].retries.backoff",
            "spec.http[].retries.retryIgnorePreviousHosts",
            "spec.http[].fault.delay.fixedDelay",
            "spec.http[].fault.delay.percentage",
            "spec.http[].fault.delay.percent",
            "spec.http[].fault.abort.httpStatus",
            "spec.http[].fault.abort.grpcStatus",
            "spec.http[].fault.abort.percentage",
        }
    ),
    "DestinationRule": frozenset(
        {
            "spec.host",
            "spec.exportTo",
            "spec.workloadSelector",
            "spec.subsets[].name",
            "spec.subsets[].labels",
            *(f"{policy}.{name}" for policy in _POLICIES for name in _POLICY_FIELDS),
            *(f"{policy}.retryBudget.{name}" for policy in _POLICIES[::2] for name in ("percent", "minRetryConcurrency")),
        }
    ),
    "ServiceEntry": frozenset(
        {
            "spec.hosts",
            "spec.ports",
            "spec.location",
            "spec.resolution",
            "spec.exportTo",
            "spec.subjectAltNames",
            "spec.workloadSelector",
            *(f"spec.endpoints[].{name}" for name in ("address", "ports", "labels", "locality", "weight", "serviceAccount")),
        }
    ),
    "WorkloadEntry": frozenset(
        f"spec.{name}" for name in ("address", "ports", "labels", "locality", "weight", "serviceAccount")
    ),
    "PeerAuthentication": frozenset({"spec.selector", "spec.mtls", "spec.portLevelMtls"}),
    "RateLimit": frozenset(f"spec.{name}" for name in ("selector", "match", "keys", "application", "local", "global")),
    "RequestAuthentication": frozenset(f"spec.{name}" for name in ("selector", "targetRef", "targetRefs", "jwtRules")),
    "AuthorizationPolicy": frozenset(
        f"spec.{name}" for name in ("selector", "targetRef", "targetRefs", "rules", "action", "provider")
    ),
}


def _only_gateways(value: Any) -> str:
    others = [name for name in value if name != "mesh"]
    if not others:
        return ""
    rest = ", only for calls inside the mesh" if "mesh" in value else ""
    return f"not effective yet for the gateway {' and '.join(others)}{rest}"


def _one_of(*good: str) -> Callable[[Any], str]:
    def limit(value: Any) -> str:
        return "" if value in good else f"{value} is not effective yet, only {' and '.join(good)}"

    return limit


def _protocol(value: Any) -> str:
    return "" if value.upper() in {"", "HTTP"} else f"{value} is not effective yet, only HTTP"


def _action(value: Any) -> str:
    return "no external authorizer is asked yet: CUSTOM refuses what its rules match" if value == "CUSTOM" else ""


def _target(value: Any) -> str:
    return "" if value == "Service" else f"a policy for a {value} is not effective yet: it refuses nobody"


def _presence(value: Any) -> str:
    if value != "REQUIRED":
        return ""
    return "not effective yet: a request without a token passes; refuse it by an AuthorizationPolicy (notRequestPrincipals)"


def _address(value: Any) -> str:
    return "Unix sockets are not effective yet" if value.startswith("unix://") else ""


LIMITS: Final[Mapping[str, Mapping[str, Callable[[Any], str]]]] = {
    "VirtualService": {"spec.gateways": _only_gateways, f"{_MATCH}.gateways": _only_gateways},
    "DestinationRule": {f"{policy}.tls.mode": _one_of("ISTIO_MUTUAL", "DISABLE") for policy in _POLICIES},
    "ServiceEntry": {
        "spec.ports[].protocol": _protocol,
        "spec.resolution": _one_of("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"),
        "spec.endpoints[].address": _address,
    },
    "WorkloadEntry": {"spec.address": _address},
    "RequestAuthentication": {
        "spec.targetRef.kind": _target,
        "spec.targetRefs[].kind": _target,
        "spec.jwtRules[].presence": _presence,
    },
    "AuthorizationPolicy": {
        "spec.action": _action,
        "spec.targetRef.kind": _target,
        "spec.targetRefs[].kind": _target,
    },
}

# Who counts on these for protection must not overlook that something else happens.
_PROTECTING: Final = frozenset({"AuthorizationPolicy", "RequestAuthentication"})
_MESH_GROUPS: Final = (".istio.io", "gateway.networking.k8s.io", "meshlib.dev")


def findings(objects: Iterable[MeshObject]) -> list[Finding]:
    """Everything in these objects that is accepted but does nothing yet."""
    return [finding for found in objects for finding in _of_object(found)]


def _of_object(found: MeshObject) -> Iterator[Finding]:
    if found.key == mesh_config.KEY:
        for path in mesh_config.idle_fields(found):
            yield _finding(found, path, f"{_last(path)} is not effective yet")
        return
    if found.key.kind == "EnvoyFilter" and found.spec is not None:
        yield from (_finding(found, path, problem) for path, problem in envoy_filter.problems(found))
        return
    whole = _whole_object(found)
    if whole is None:
        yield from _fields(found)
    else:
        yield whole


def _whole_object(found: MeshObject) -> Finding | None:
    kind = found.key.kind
    if found.key.group == RBAC:
        return _idle_role(found)
    if not found.key.group.endswith(_MESH_GROUPS):
        text = f"{kind} is kept, but not used by the stand-alone control plane"
        return _finding(found, "", text, code=NOT_USED, severity=Severity.INFO)
    if found.spec is None or kind not in HONOURED:
        consequence = ": it refuses nobody" if kind in _PROTECTING else ""
        return _finding(found, "", f"{kind} is not effective yet{consequence}")
    if kind == "VirtualService":
        return _idle_virtual_service(found)
    return None


def _idle_role(found: MeshObject) -> Finding | None:
    if not found.raw.get("aggregationRule"):
        return None
    return _finding(found, "aggregationRule", "roles are not aggregated: only the rules written here count", code=NOT_USED)


def _idle_virtual_service(found: MeshObject) -> Finding | None:
    spec = found.spec
    if not spec.hosts:
        return _finding(found, "", "a VirtualService without hosts is a delegate: not effective yet")
    if spec.gateways and "mesh" not in spec.gateways:
        return _finding(found, "spec.gateways", _only_gateways(spec.gateways))
    return None


def _fields(found: MeshObject) -> Iterator[Finding]:
    kind = found.key.kind
    if found.spec is None:  # roles: whatever stands in them counts
        return
    honoured, limits = HONOURED[kind], LIMITS.get(kind, {})
    for path in _reported(found.raw.get("spec", {}), "spec", honoured):
        yield _finding(found, path, f"{_last(path)} is not effective yet")
    for path, value in walk(found.raw.get("spec", {}), "spec"):
        problem = limits.get(_pattern(path), _nothing)(value)
        if problem:
            yield _finding(found, path, problem)


def _reported(value: Any, path: str, honoured: frozenset[str]) -> Iterator[str]:
    """The outermost fields that are set and not honoured."""
    pattern = _pattern(path)
    if not value or pattern in honoured:
        return
    if not any(other.startswith((f"{pattern}.", f"{pattern}[")) for other in honoured):
        yield path
        return
    for place, inner in _children(value, path):
        yield from _reported(inner, place, honoured)


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((child(path, key), inner) for key, inner in value.items())
    elif isinstance(value, list):
        yield from ((item(path, index), inner) for index, inner in enumerate(value))


def _pattern(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


def _last(path: str) -> str:
    return re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]


def _nothing(_value: Any) -> str:
    return ""


def _finding(
    found: MeshObject, path: str, message: str, *, code: str = NOT_EFFECTIVE, severity: Severity | None = None
) -> Finding:
    return Finding(
        code=code,
        severity=severity or (Severity.ERROR if found.key.kind in _PROTECTING else Severity.WARNING),
        object=found.key,
        message=message,
        field=path,
        file=found.file,
        line=line_of(found.lines, path),
    )
