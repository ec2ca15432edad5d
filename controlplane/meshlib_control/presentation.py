"""What the API shows: objects with their status, findings, connected clients, as plain data with stable names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from .model import Finding, MeshObject, ObjectKey, Severity
from .xds.exchange import SyncState, TypeStatus
from .xds.server import ProxyStatus

NOT_EFFECTIVE = "MSH0001"


def resource_name(key: ObjectKey) -> str:
    """As kubectl prints it: `virtualservice.networking.istio.io/reviews`."""
    kind = f"{key.kind}.{key.group}" if key.group else key.kind
    return f"{kind.lower()}/{key.name}"


def finding_data(finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "object": str(finding.object),
        "message": finding.message,
        "field": finding.field,
        "file": finding.file,
        "line": finding.line,
        "advice": finding.advice,
    }


def object_data(item: MeshObject, findings: Iterable[Finding]) -> dict[str, Any]:
    """An object as it was written, with the metadata and the status that the control plane adds.

    Args:
        findings: all that is known about this object.
    """
    raw = dict(item.raw)
    raw.pop("status", None)
    metadata = {
        **dict(raw.get("metadata") or {}),
        **({"namespace": item.key.namespace} if item.key.namespace else {}),
        "resourceVersion": str(item.revision),
        **({"creationTimestamp": _timestamp(item.created)} if item.created else {}),
    }
    return {
        "apiVersion": item.api_version,
        "kind": item.key.kind,
        "metadata": metadata,
        **{name: value for name, value in raw.items() if name not in ("apiVersion", "kind", "metadata")},
        "status": _status(item, list(findings)),
    }


def _status(item: MeshObject, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "origin": {"source": item.source, "file": item.file, "line": item.lines.get("", 0)},
        "conditions": [_accepted(), _valid(findings), _effective(findings)],
        "messages": [finding_data(finding) for finding in findings],
    }


def _accepted() -> dict[str, str]:
    return {"type": "Accepted", "status": "True", "reason": "Valid", "message": ""}


def _valid(findings: Sequence[Finding]) -> dict[str, str]:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if not errors:
        return {"type": "Resolved", "status": "True", "reason": "NoIssues", "message": ""}
    return {"type": "Resolved", "status": "False", "reason": errors[0].code, "message": errors[0].message}


def _effective(findings: Sequence[Finding]) -> dict[str, str]:
    missing = [finding for finding in findings if finding.code == NOT_EFFECTIVE]
    if not missing:
        return {"type": "Effective", "status": "True", "reason": "AllFields", "message": ""}
    whole_kind = any(not finding.field or finding.field == "kind" for finding in missing)
    reason = "KindNotEffectiveYet" if whole_kind else "FieldsNotEffectiveYet"
    return {"type": "Effective", "status": "False", "reason": reason, "message": "; ".join(item.message for item in missing)}


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_STATES = {
    SyncState.SYNCED: "synced",
    SyncState.STALE: "pending",
    SyncState.NACK: "rejected",
    SyncState.NOT_SENT: "synced",  # asked for nothing that exists: there is nothing to wait for
}


def proxy_data(row: ProxyStatus, now: float) -> dict[str, Any]:
    """A connected client, for `ps`.

    Args:
        now: seconds since the epoch.
    """
    node = row.node
    return {
        "name": node.instance,
        "namespace": node.namespace,
        "serviceAccount": node.service_account,
        "services": list(row.services),
        "labels": dict(node.labels),
        "workload": node.workload,
        "address": node.address,
        "ports": [
            {"service": entry.service, "port": entry.port, "targetPort": entry.target_port, "protocol": entry.protocol}
            for entry in node.registrations
        ],
        "client": node.version or node.kind,
        "kind": node.kind,
        "status": _STATES[row.state],
        "types": [_type_data(entry) for entry in row.types],
        "errors": [
            {"type": _short(entry.type_url), "error": entry.error, "objects": [str(key) for key in entry.objects]}
            for entry in row.types
            if entry.error
        ],
        "certificate": time_left(row.certificate_expires, now),
        "certificateExpires": _timestamp(row.certificate_expires) if row.certificate_expires else None,
        "connectedSince": _timestamp(row.connected_since),
    }


def time_left(expires: float | None, now: float) -> str:
    """`23h`, `59m`, `12s`, `expired`; `-` if not known."""
    if expires is None:
        return "-"
    seconds = int(expires - now)
    if seconds <= 0:
        return "expired"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _type_data(entry: TypeStatus) -> dict[str, Any]:
    return {"type": _short(entry.type_url), "status": _STATES[entry.state], "resources": entry.resources}


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
