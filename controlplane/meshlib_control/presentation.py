"""What the API shows: objects with their status, findings, connected clients, as plain data with stable names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from meshlib.errors import ConfigurationError

from .model import Finding, MeshObject, ObjectKey, Severity
from .status import described
from .store import Change, Past
from .xds.exchange import SyncState, TypeStatus
from .xds.server import ProxyStatus


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


def problem_data(error: ConfigurationError) -> dict[str, Any]:
    """What is wrong in a watched file, in the form of a finding; the code is Istio's SchemaValidationError."""
    return {
        "code": "IST0106",
        "severity": Severity.ERROR.value,
        "object": "",
        "message": error.problem,
        "field": error.field,
        "file": error.file,
        "line": error.line,
        "advice": getattr(error, "suggestion", ""),
    }


def object_data(item: MeshObject, findings: Sequence[Finding]) -> dict[str, Any]:
    """An object with its status, which also says where it came from.

    Args:
        findings: those about this object are shown, others left out.
    """
    data = described(item, findings)
    data["status"]["origin"] = {"source": item.source, "file": item.file, "line": item.lines.get("", 0)}
    return data


def change_data(change: Change) -> dict[str, Any]:
    """What apply did to an object."""
    return {
        "resource": resource_name(change.key),
        "kind": change.key.kind,
        "namespace": change.key.namespace,
        "name": change.key.name,
        "action": change.action.value,
    }


def past_data(entry: Past) -> dict[str, Any]:
    """One line of the history."""
    return {
        "kind": entry.key.kind,
        "namespace": entry.key.namespace,
        "name": entry.key.name,
        "revision": entry.revision,
        "time": _timestamp(entry.time),
        "author": entry.author,
        "action": entry.action.value,
        "file": entry.file,
        "document": dict(entry.document),
    }


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


STATES = {
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
        "status": STATES[row.state],
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
    return {"type": _short(entry.type_url), "status": STATES[entry.state], "resources": entry.resources}


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
