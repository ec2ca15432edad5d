"""What happened to one request, as one frozen value: metrics, access log and spans are all made from it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from meshlib.facts import DryRun, Peer


class Reporter(Enum):
    """Which side tells: Istio's label `reporter`."""

    SOURCE = "source"
    DESTINATION = "destination"


class Workload(NamedTuple):
    """One side of a request, in the words of Istio's labels. Empty means unknown."""

    workload: str = ""
    namespace: str = ""
    principal: str = ""
    app: str = ""
    version: str = ""
    service: str = ""  # full host name
    service_name: str = ""
    cluster: str = "Kubernetes"


class RequestEvent(NamedTuple):
    """A finished request: response complete, failed or abandoned.

    A named tuple, because one is made for every request on each side: a frozen dataclass takes eight times as long.

    Args:
        started: seconds since the epoch, for the access log.
        duration: seconds from the first byte sent or received to the last.
        status: HTTP status; 0 if there was none because the client left.
        flags: Envoy's response flags, `-` for none.
        route, cluster, endpoint, attempts: outbound only.
        upstream_duration: seconds until the head of the response came; None if it did not.
        grpc_status: the number of the gRPC code; empty: not gRPC, or none came.
        request_messages, response_messages: of a gRPC call.
        dry_runs: inbound only, what policies on trial would have done.
    """

    reporter: Reporter
    source: Workload
    destination: Workload
    method: str
    path: str
    authority: str
    protocol: str
    status: int
    flags: str = "-"
    detail: str = "via_upstream"
    started: float = 0.0
    duration: float = 0.0
    upstream_duration: float | None = None
    bytes_received: int = 0
    bytes_sent: int = 0
    route: str = ""
    cluster: str = ""
    endpoint: str = ""
    attempts: int = 1
    peer: Peer = Peer()
    secured: bool | None = None  # None: the source reporter does not know (`unknown`), as in Istio
    request_id: str = ""
    user_agent: str = ""
    forwarded_for: str = ""
    local_address: str = ""
    transport_failure: str = ""
    request_protocol: str = "http"
    grpc_status: str = ""
    request_messages: int = 0
    response_messages: int = 0
    dry_runs: tuple[DryRun, ...] = ()


Listener = Callable[[RequestEvent], None]
