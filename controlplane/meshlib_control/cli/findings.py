"""Findings as lines, in the form that users of istioctl know."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from .failure import paint

# As istioctl: errors red, warnings yellow, the rest plain.
_COLOURS = {"Error": "1;31", "Warning": "33"}
SEVERITIES = ("Info", "Warning", "Error")


def finding_line(finding: Mapping[str, Any], stream: TextIO) -> str:
    """`Error [IST0101] (VirtualService default/reviews file.yaml:12) Referenced host not found: ...`."""
    severity = finding["severity"]
    name = paint(severity, _COLOURS[severity], stream) if severity in _COLOURS else severity
    place = f"{finding['file']}:{finding['line']}" if finding["file"] and finding["line"] else finding["file"]
    subject = " ".join(part for part in (finding["object"], place) if part)
    advice = f"; {finding['advice']}" if finding["advice"] else ""
    return f"{name} [{finding['code']}] ({subject}) {finding['message']}{advice}"


def print_findings(findings: Iterable[Mapping[str, Any]], stream: TextIO | None = None) -> None:
    """One line each, on stderr if no stream is given."""
    stream = stream or sys.stderr
    for finding in findings:
        print(finding_line(finding, stream), file=stream)


def at_least(findings: Iterable[Mapping[str, Any]], threshold: str) -> list[Mapping[str, Any]]:
    """Those at or above a severity."""
    lowest = SEVERITIES.index(threshold)
    return [finding for finding in findings if SEVERITIES.index(finding["severity"]) >= lowest]
