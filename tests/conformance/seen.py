"""What can be told about one request, whoever carried it, and in what two tellings differ."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.conformance.echo import Arrival

Headers = tuple[tuple[str, str], ...]
Endpoints = frozenset[tuple[str, int, int]]
"""Address, port and weight of each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as its caller, the mesh and the upstreams saw it.

    Args:
        status: what the caller got; for an exception what its class stands for.
        flags: Envoy's response flags; empty: none.
        route, cluster: what was decided; empty: nothing.
        attempts: tries that the mesh counts.
        tries: what arrived, in order.
        endpoints: of the cluster.
        headers, body: of the response; names in lower case.
        whole: whether the body was complete.
        raised: there is no response but an exception (ours only).
        note: for people.
    """

    status: int
    flags: frozenset[str] = frozenset()
    route: str = ""
    cluster: str = ""
    attempts: int = 0
    tries: tuple[Arrival, ...] = ()
    endpoints: Endpoints = frozenset()
    headers: Headers = ()
    body: bytes = b""
    whole: bool = True
    raised: bool = False
    note: str = field(default="", compare=False)
