"""A filter of our own: nobody enters. For a port whose policy is not in force; no listener on the wire has it."""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.config.policy import Filter
from meshlib.inbound.visit import Denied, Visit


@dataclass(frozen=True, slots=True)
class Closed(Filter):
    """Every request is answered with 503 (gRPC: UNAVAILABLE), so that a client tries another endpoint.

    Args:
        reason: one sentence for the log. Callers are not told: it may quote the configuration.
    """

    reason: str


def decide(closed: Closed, visit: Visit) -> Denied:
    """Whoever comes."""
    body = "this port has no valid policy yet; its log says why"
    return Denied(closed.reason, status=503, body=body, detail="inbound_policy_missing")
