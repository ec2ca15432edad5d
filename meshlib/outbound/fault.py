"""Faults that configuration injects before a request leaves (Envoy's HTTP fault filter).

Rule 1: the delay comes first, then the abort; they are drawn independently.
Rule 2: an injected answer is final: the fault filter stands before the router, so neither retries nor the route's timeout
see it, and the delay does not count against that timeout.
Rule 3: a fraction of 0.0 never hits, one of 1.0 always does.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.config.model import Abort, Fault
from meshlib.facts import Headers, Request
from meshlib.outbound import reply
from meshlib.outbound.route import Dice

BODY = b"fault filter abort"
DELAY_FLAG = "DI"
ABORT_FLAG = "FI"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What hits one request: seconds to hold it back (0.0: none) and the abort that answers it."""

    delay: float = 0.0
    abort: Abort | None = None


NOTHING = Drawn()


def hits(fraction: float, dice: Dice) -> bool:
    """Whether a draw falls into the fraction; the dice never show 1.0."""
    return dice() < fraction


def draw(fault: Fault | None, dice: Dice) -> Drawn:
    """What of a route's fault hits this request."""
    if fault is None:
        return NOTHING
    delay = fault.delay.seconds if fault.delay is not None and hits(fault.delay.fraction, dice) else 0.0
    abort = fault.abort if fault.abort is not None and hits(fault.abort.fraction, dice) else None
    return Drawn(delay, abort)


def answer(abort: Abort, request: Request) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an aborted request; 200 when only a gRPC status is set (Envoy)."""
    return reply.answer(request, 200 if abort.grpc_status is not None else abort.http_status, BODY, abort.grpc_status)
