"""How a finding is made: code, object, and the line of its field."""

from __future__ import annotations

from meshlib_control.mistakes import line_of
from meshlib_control.model import Finding, MeshObject, Severity


def finding(code: str, severity: Severity, found: MeshObject, field: str, message: str, advice: str = "") -> Finding:
    """A finding about a field of an object.

    Args:
        code: istioctl's (pkg/config/analysis/msg/messages.yaml) where one fits, `MSH` and a number otherwise.
        field: path inside the object; empty for all of it.
    """
    return Finding(code, severity, found.key, message, field, found.file, line_of(found.lines, field), advice)
