"""May it enter? The one place that shows the order of the answers.

    a connection   1. authenticate   the port's mutual TLS mode against the kind of connection
    a request      1. authenticate   once more: the mode may have changed since the connection was made, and a server that
                                     cannot speak mutual TLS shows the application plain text only
                   2. authorize      AuthorizationPolicy is decided here, on the request and its peer, once it is effective;
                                     until then the control plane reports such a policy as not effective

Rule 1: nobody enters without a Permit, and only this file makes one.
Rule 2: what cannot be proved is denied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshlib.config.model import Origin, PeerMode
from meshlib.facts import Peer


@dataclass(frozen=True, slots=True)
class InboundPort:
    """What our own port accepts now. PERMISSIVE until somebody says otherwise, as in Istio."""

    mode: PeerMode = PeerMode.PERMISSIVE
    origin: Origin | None = None


class Wire(Enum):
    """What the first byte of a connection says."""

    PLAIN = "plain text"
    TLS = "TLS"


TLS_HANDSHAKE = 0x16  # RFC 8446 5.1: the record type of a hello; no HTTP/1.1 request starts with it


def wire(first: int) -> Wire:
    """Tell TLS from plain text by the first byte (0 to 255) of a connection."""
    return Wire.TLS if first == TLS_HANDSHAKE else Wire.PLAIN


@dataclass(frozen=True, slots=True)
class Permit:
    """The connection or request may enter."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Denied:
    """It may not.

    Args:
        detail: for the log and the answer: what was wrong, in one sentence.
        status: what an HTTP request is answered with. A connection gets no answer: Istio closes it without a byte.
        flag: Envoy's response flag for the access log, `-` for none.
    """

    detail: str
    status: int = 403
    flag: str = "-"


def admit_connection(port: InboundPort, seen: Wire) -> Permit | Denied:
    """Whether a connection may go on. A TLS peer is not known yet: the handshake that follows names it.

    With mode DISABLE a server does not ask: it serves plain text only, so that a TLS hello is a bad request, as with Envoy.
    """
    if port.mode is PeerMode.STRICT and seen is Wire.PLAIN:
        return Denied("plain text where mutual TLS is STRICT")
    if port.mode is PeerMode.DISABLE and seen is Wire.TLS:
        return Denied("TLS where mutual TLS is DISABLEd")
    return Permit(Peer())


def admit(port: InboundPort, peer: Peer) -> Permit | Denied:
    """Whether a request of `peer` may reach the application."""
    return _authenticate(port, peer)


def _authenticate(port: InboundPort, peer: Peer) -> Permit | Denied:
    # A mutual TLS connection made before the mode became DISABLE may finish: it proved more than is asked for.
    if port.mode is PeerMode.STRICT and not peer.secured:
        return Denied("mutual TLS is STRICT here and the connection is plain text")
    return Permit(peer)
