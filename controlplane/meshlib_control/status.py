"""The status of an object, as `get -o yaml` shows it: Kubernetes' conditions, Istio's validation messages."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshlib_control.effective import NOT_EFFECTIVE, NOT_USED
from meshlib_control.model import Finding, MeshObject, Severity


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a status; `reason` is one word, `message` is for people."""

    type: str
    status: bool
    reason: str
    message: str


def conditions(findings: Sequence[Finding]) -> list[Condition]:
    """Whether an object was accepted (it was, or it would not be here), and whether all of it acts.

    Args:
        findings: those about this object.
    """
    return [Condition("Accepted", True, "Accepted", "all fields are valid"), _effective(findings), _healthy(findings)]


def _effective(findings: Sequence[Finding]) -> Condition:
    idle = [finding for finding in findings if finding.code in {NOT_EFFECTIVE, NOT_USED}]
    if not idle:
        return Condition("Effective", True, "Effective", "every field acts")
    reason = "NotEffective" if any(not finding.field for finding in idle) else "PartlyEffective"
    return Condition("Effective", False, reason, _joined(idle))


def _healthy(findings: Sequence[Finding]) -> Condition:
    worse = [f for f in findings if f.code not in {NOT_EFFECTIVE, NOT_USED} and f.severity is not Severity.INFO]
    if not worse:
        return Condition("Healthy", True, "NoFindings", "analyze has nothing to say")
    return Condition("Healthy", False, "Findings", _joined(worse))


def _joined(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{finding.field}: {finding.message}" if finding.field else finding.message for finding in findings)


def described(found: MeshObject, findings: Sequence[Finding]) -> dict[str, Any]:
    """The whole document with what the control plane adds: namespace, revision, time, status.

    Args:
        findings: those about this object; other objects' are left out.
    """
    mine = [finding for finding in findings if finding.object == found.key]
    document = copy.deepcopy(dict(found.raw))
    metadata = document["metadata"]
    if found.key.namespace:
        metadata["namespace"] = found.key.namespace
    metadata["resourceVersion"] = str(found.revision)
    if found.created:
        metadata["creationTimestamp"] = datetime.fromtimestamp(found.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document["status"] = {
        "conditions": [
            {"type": one.type, "status": str(one.status), "reason": one.reason, "message": one.message}
            for one in conditions(mine)
        ],
        "validationMessages": [
            {"type": {"code": finding.code}, "level": finding.severity.value.upper(), "message": finding.message}
            for finding in mine
        ],
    }
    return document
