"""May it enter? The one place that shows the order of the answers.

    a connection   1. authenticate   the port's mutual TLS mode against the kind of connection
    a request      1. authenticate   once more: the mode may have changed since the connection was made, and a server that
                                     cannot speak mutual TLS shows the application plain text only
                   2. normalize      the path is written in one way before anybody decides on it
                   3. filters        in the order in which the listener names them, as Envoy

Rule 1: nobody enters without a Permit, and only this file makes one.
Rule 2: what cannot be proved is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

from meshlib.config.ext_authz import ExtAuthz
from meshlib.config.jwt import JwtAuthn
from meshlib.config.model import Origin, PeerMode
from meshlib.config.policy import AS_WRITTEN, Filter, InboundListener, Normalization, Rbac
from meshlib.config.rate_limit import GlobalRateLimit, LocalRateLimit
from meshlib.facts import Peer
from meshlib.inbound import authorize, closed, ext_authz
from meshlib.inbound.jwt import TokenCheck
from meshlib.inbound.normalize import normalize
from meshlib.inbound.rate_limit import ask_global, decide_local
from meshlib.inbound.visit import Answer, Denied, Permit, Question, Visit

Asking = Generator[Question, Answer, Denied | None]
Step = Callable[[Visit], Denied | Asking | None]


def _limiting(decide: Callable[[Any, Visit], Denied | Asking | None]) -> Callable[[Any], Step | None]:
    """A filter that is a function of itself and the visit; what the application asks for by itself is no step."""
    return lambda one: None if one.of_application else partial(decide, one)


_STEPS: Mapping[type[Filter], Callable[[Any], Step | None]] = {
    ExtAuthz: lambda one: partial(ext_authz.ask, one),
    JwtAuthn: TokenCheck,
    Rbac: authorize.step,
    LocalRateLimit: _limiting(decide_local),
    GlobalRateLimit: _limiting(ask_global),
    closed.Closed: lambda one: partial(closed.decide, one),
}
"""What each kind of filter does; called once for a port, so that what can be prepared is."""


@dataclass(frozen=True, slots=True)
class InboundPort:
    """What our own port accepts now. PERMISSIVE until somebody says otherwise, as in Istio."""

    mode: PeerMode = PeerMode.PERMISSIVE
    origin: Origin | None = None
    filters: tuple[Filter, ...] = ()
    normalization: Normalization = AS_WRITTEN
    origins: Mapping[str, Origin] = field(default_factory=dict, hash=False)
    trust_domains: frozenset[str] = frozenset()
    steps: tuple[Step, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        steps = (_STEPS[type(one)](one) for one in self.filters)
        object.__setattr__(self, "steps", tuple(step for step in steps if step is not None))


def port_of(listener: InboundListener) -> InboundPort:
    """The port that a listener describes."""
    return InboundPort(
        listener.mode, listener.origin, listener.filters, listener.normalization, listener.origins, listener.trust_domains
    )


class Wire(Enum):
    """What the first byte of a connection says."""

    PLAIN = "plain text"
    TLS = "TLS"


TLS_HANDSHAKE = 0x16  # RFC 8446 5.1: the record type of a hello; no HTTP/1.1 request starts with it


def wire(first: int) -> Wire:
    """Tell TLS from plain text by the first byte (0 to 255) of a connection."""
    return Wire.TLS if first == TLS_HANDSHAKE else Wire.PLAIN


def admit_connection(port: InboundPort, seen: Wire) -> Denied | None:
    """Why a connection may not go on; None: it may. A TLS peer is not known yet: the handshake that follows names it.

    With mode DISABLE a server does not ask: it serves plain text only, so that a TLS hello is a bad request, as with Envoy.
    """
    if port.mode is PeerMode.STRICT and seen is Wire.PLAIN:
        return Denied("plain text where mutual TLS is STRICT")
    if port.mode is PeerMode.DISABLE and seen is Wire.TLS:
        return Denied("TLS where mutual TLS is DISABLEd")
    return None


def admission(port: InboundPort, visit: Visit) -> Generator[Question, Answer, Permit | Denied]:
    """Whether a request may reach the application, and as what. Yields what a filter has to ask; send it the answer."""
    denied = _authenticate(port, visit.peer) or normalize(port.normalization, visit)
    if denied is not None:
        return denied
    for step in port.steps:
        found = step(visit)
        denied = found if found is None or isinstance(found, Denied) else (yield from found)
        if denied is not None:
            return replace(denied, headers=(*denied.headers, *visit.response_headers)) if visit.response_headers else denied
    return Permit(visit.peer, visit.request, visit.metadata, visit.response_headers)


def _authenticate(port: InboundPort, peer: Peer) -> Denied | None:
    # A mutual TLS connection made before the mode became DISABLE may finish: it proved more than is asked for.
    if port.mode is PeerMode.STRICT and not peer.secured:
        return Denied("mutual TLS is STRICT here and the connection is plain text")
    if port.trust_domains and peer.certificate_hash and _trust_domain(peer) not in port.trust_domains:
        return Denied(f"the peer {peer.spiffe_id or 'without an identity'} is of another trust domain")
    return None


def _trust_domain(peer: Peer) -> str:
    return peer.spiffe_id.removeprefix("spiffe://").partition("/")[0]
