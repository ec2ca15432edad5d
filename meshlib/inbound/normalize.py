"""The request as everybody behind the door reads it: what Envoy's connection manager does before any filter decides.

Rule 1: escaped slashes first, then dot segments and escapes, then several slashes: each may make work for the next
(ConnectionManagerUtility::maybeNormalizePath).
Rule 2: what cannot be read in one way only is refused with 400 (`codec` says what comes before the path). That holds for two
Host headers as well (RFC 9112 3.2), which Envoy takes for one with a comma in it.
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.config.policy import AS_WRITTEN, EscapedSlashes, Normalization
from meshlib.inbound import codec
from meshlib.inbound.visit import Denied, Visit
from meshlib.path import merged_slashes, normalized, unescaped_slashes, without_fragment

_NOT_NORMAL = Denied("the path cannot be normalized", 400, body="", detail="path_normalization_failed")
_NO_PATH = Denied("the request names no path", 404, body="", detail="absolute_path_rejected")


def normalize(how: Normalization, visit: Visit) -> Denied | None:
    """Write the path of the visit's request in one way, or say why it is refused."""
    if how is AS_WRITTEN:
        return None
    refused = codec.read(visit)
    if refused is not None:
        return refused
    path = visit.request.path
    if not path.startswith("/"):
        return _NO_PATH
    found, answer = _rewritten(how, path)
    if answer is None and found != path:
        visit.request = replace(visit.request, path=found)
    return answer


def _rewritten(how: Normalization, path: str) -> tuple[str, Denied | None]:
    path, redirect = without_fragment(path), None
    if how.escaped_slashes is not EscapedSlashes.KEEP and (plain := unescaped_slashes(path)) != path:
        if how.escaped_slashes is EscapedSlashes.REJECT:
            return path, _NOT_NORMAL
        path, redirect = plain, how.escaped_slashes is EscapedSlashes.REDIRECT
    if how.normalize:
        found = normalized(path)
        if found is None:
            return path, _NOT_NORMAL
        path = found
    if how.merge_slashes:
        path = merged_slashes(path)
    return path, _moved(path) if redirect else None


def _moved(path: str) -> Denied:
    headers = (("location", path),)
    return Denied("the path has escaped slashes", 307, body="", headers=headers, detail="path_normalization_failed")
