"""What is valid but hardly meant: deprecated fields, weights that do not add up to 100."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from meshlib_control.analyze.finding import finding
from meshlib_control.kinds import VirtualService
from meshlib_control.mistakes import item
from meshlib_control.model import Finding, MeshObject, Severity
from meshlib_control.yaml import walk

DEPRECATED: Final = "IST0002"
WEIGHTS: Final = "MSH0003"

# Path pattern of a deprecated field, and what to write instead.
_DEPRECATED: Final[Mapping[str, Mapping[str, str]]] = {
    "VirtualService": {
        r"spec\.http\[\d+\]\.fault\.delay\.percent": "percentage.value",
        r"spec\.http\[\d+\]\.mirror_?[pP]ercent": "mirrorPercentage.value",
        r"spec\.http\[\d+\]\.corsPolicy\.allowOrigin": "allowOrigins with exact:",
    },
    "DestinationRule": {
        r".*\.outlierDetection\.consecutiveErrors": "consecutive5xxErrors or consecutiveGatewayErrors",
        r".*\.consistentHash\.minimumRingSize": "ringHash.minimumRingSize",
        r".*\.loadBalancer\.warmupDurationSecs": "warmup.duration",
    },
}


def deprecated_fields(found: MeshObject) -> Iterator[Finding]:
    """Fields that Istio is about to drop."""
    patterns = _DEPRECATED.get(found.key.kind, {})
    for path, value in walk(found.raw.get("spec", {}), "spec") if patterns else ():
        instead = next((words for pattern, words in patterns.items() if re.fullmatch(pattern, path)), "")
        if not instead and path.endswith(".loadBalancer.simple") and value == "LEAST_CONN":
            instead = "LEAST_REQUEST"
        if instead:
            message = f"Deprecated: {path.rpartition('.')[2]}"
            yield finding(DEPRECATED, Severity.WARNING, found, path, message, f"use {instead}")


def weights(found: MeshObject) -> Iterator[Finding]:
    """Weights that are not percentages: they are shares of their sum."""
    spec: VirtualService = found.spec
    for index, http in enumerate(spec.http):
        total = sum(target.weight for target in http.route)
        if len(http.route) > 1 and total != 100:
            shares = ", ".join(f"{target.weight / total:.0%}" for target in http.route)
            message = f"The weights add up to {total}, not 100: the shares are {shares}"
            yield finding(WEIGHTS, Severity.INFO, found, f"{item('spec.http', index)}.route", message)
