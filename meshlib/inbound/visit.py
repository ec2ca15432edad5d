"""A request on its way in: what the filters of the port read and change, and how they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from meshlib.facts import DryRun, Headers, Peer, Request

if TYPE_CHECKING:
    from meshlib.inbound.rate_limit import Counting


class Visit:
    """One request while the filters decide about it.

    Args:
        request: as it arrived; filters replace it by what the application shall see.
        local_address: `ip:port` it came in at.
        server_name: what the client named in its TLS hello (SNI); empty: nothing.
        now: seconds since the epoch.
        counting: what rate limits count with; None: nothing is limited.

    Attributes:
        metadata: Envoy's dynamic metadata: namespace -> value; one filter writes what a later one reads.
        response_headers: to add to the response, whoever answers.
        dry_runs: what policies on trial would have done.
        guess: whether conditions on the authority are to hold as far as possible, or as little; None: they are judged.
        knows_authority: whether the server was told the authority of the request.
    """

    __slots__ = (
        "counting", "dry_runs", "guess", "knows_authority", "local_address", "metadata", "now", "peer", "request",
        "response_headers", "server_name",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        peer: Peer,
        local_address: str = "",
        server_name: str = "",
        now: float = 0.0,
        counting: Counting | None = None,
    ) -> None:
        self.request = request
        self.peer = peer
        self.local_address = local_address
        self.server_name = server_name
        self.now = now
        self.counting = counting
        self.metadata: dict[str, Any] = {}
        self.response_headers: list[tuple[str, str]] = []
        self.dry_runs: list[DryRun] = []
        self.guess: bool | None = None
        self.knows_authority = True

    def __repr__(self) -> str:
        return f"<Visit {self.request.method} {self.request.path} of {self.peer.spiffe_id or self.peer.address}>"


class Permit(NamedTuple):
    """The request may enter. Only `admit` makes one.

    A named tuple, because one is made for every request.

    Args:
        request: what the application sees: the path normalized, headers as the filters left them.
        metadata: what the filters found out.
        response_headers: to add to the application's response.
    """

    peer: Peer
    request: Request
    metadata: dict[str, Any]
    response_headers: list[tuple[str, str]]


class Miss(NamedTuple):
    """The policy that came closest where none allowed a request.

    Args:
        policy: its name; empty: there is no policy.
        unmet: what would have had to be otherwise, in words; as little as possible.
    """

    policy: str = ""
    unmet: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"closest is policy {self.policy}: {' and '.join(self.unmet)}" if self.policy else "no policy allows anything here"
        )


@dataclass(frozen=True, slots=True)
class Denied:
    """The request or connection may not enter.

    Args:
        reason: what was wrong, in one sentence, for the log.
        status: what an HTTP request is answered with. A connection gets no answer: Istio closes it without a byte.
        body: of the answer, plain text, and the words of a gRPC status; None: `reason`.
        headers: to add to the answer.
        flag: Envoy's response flag for the access log, `-` for none.
        detail: Envoy's response code details; empty: what follows from the flag.
        grpc_status: what a gRPC call ends with; None: what follows from the status.
        policy: the policy that says so, if there is one.
        closest: finds, for the log, the policy that nearly allowed it, and may take its time.
    """

    reason: str
    status: int = 403
    body: str | None = None
    headers: Headers = ()
    flag: str = "-"
    detail: str = ""
    grpc_status: int | None = None
    policy: str = ""
    closest: Callable[[Visit], Miss] | None = field(default=None, compare=False, repr=False)

    @property
    def words(self) -> str:
        """What the client is told."""
        return self.reason if self.body is None else self.body


def refusal(answer: Denied) -> tuple[bytes, Headers]:
    """Body and headers of an HTTP answer; what a filter says about them replaces what would be said anyway."""
    body = answer.words.encode("utf-8", "surrogateescape")
    kind = next((value for name, value in answer.headers if name == "content-type"), "text/plain")
    headers = [item for item in answer.headers if item[0] != "content-type"]
    return body, (*((("content-type", kind),) if body else ()), ("content-length", str(len(body))), *headers)


class Question:
    """What a filter has to ask somebody else before it can decide. Each kind is a class of its own, with its answer's type."""

    __slots__ = ()


Answer = Any
