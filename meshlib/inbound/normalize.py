"""The path as everybody behind the door reads it: Envoy's ConnectionManagerUtility::maybeNormalizePath.

Rule 1: escaped slashes first, then dot segments and escapes, then several slashes: each may make work for the next.
Rule 2: what cannot be normalized is refused with 400.
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.config.policy import AS_WRITTEN, Normalization
from meshlib.inbound.visit import Denied, Visit
from meshlib.path import normalized


def normalize(how: Normalization, visit: Visit) -> Denied | None:
    """Write the path of the visit's request in one way, or say why it is refused."""
    if how is AS_WRITTEN:
        return None
    path = visit.request.path
    found = normalized(path) if how.normalize else path
    if found is None:
        return Denied("the path cannot be normalized", 400, body="", detail="path_normalization_failed")
    if found != path:
        visit.request = replace(visit.request, path=found)
    return None
