"""What an inbound listener says, as plain frozen values: the words are xDS's, the protobuf is gone.

`decode` and `decode_policy` make them, `inbound/admit` obeys them in the order in which the listener names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshlib.config.model import Origin, PeerMode


class Filter:
    """One inbound HTTP filter. Each kind is a frozen dataclass of its own."""

    __slots__ = ()


class EscapedSlashes(Enum):
    """What is done with %2F and %5C in a path (path_with_escaped_slashes_action)."""

    KEEP = "KEEP_UNCHANGED"
    REJECT = "REJECT_REQUEST"
    REDIRECT = "UNESCAPE_AND_REDIRECT"
    FORWARD = "UNESCAPE_AND_FORWARD"


@dataclass(frozen=True, slots=True)
class Normalization:
    """What happens to a path before anybody decides on it; the application sees what is left (HttpConnectionManager).

    Args:
        normalize: dot segments are resolved, backslashes turned, needless escapes undone (normalize_path).
        merge_slashes: several slashes become one.
    """

    normalize: bool = False
    merge_slashes: bool = False
    escaped_slashes: EscapedSlashes = EscapedSlashes.KEEP


AS_WRITTEN = Normalization()
"""Envoy's own default."""


@dataclass(frozen=True, slots=True)
class InboundListener:
    """What a port of ours accepts.

    Args:
        filters: in the order in which they decide about a request.
    """

    name: str
    mode: PeerMode
    origin: Origin | None = None
    filters: tuple[Filter, ...] = ()
    normalization: Normalization = AS_WRITTEN
