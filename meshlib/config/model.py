"""What the control plane decided, as plain frozen values: the words are xDS's, the protobuf is gone.

Everything here has been validated by `decode`: regular expressions are compiled, weights add up, percentages are fractions of
1.0. Durations are seconds. Readers may trust every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from meshlib.config.protection import CircuitBreakers, ConnectionPolicy, OutlierDetection


class Pattern(Protocol):
    """A compiled RE2 expression."""

    def fullmatch(self, text: bytes, /) -> object | None:
        """A match of the whole text, or None."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a decision was written down, for people.

    Args:
        object: `VirtualService default/reviews`.
        file: the file as the operator named it; `api` for an object that came through the API without a file.
        line: 1-based; 0 if not known.
        field: path inside the object: `spec.http[0]`.
    """

    object: str
    file: str = ""
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return " ".join(part for part in (self.object, self.field, f"({place})" if place else "") if part)


class MatchKind(Enum):
    """How a string is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"  # the whole string, as Envoy and Istio do
    PRESENT = "present"  # any value, also the empty one


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One comparison.

    Args:
        value: UTF-8 shown as latin-1, as texts of requests are; in lower case already where `ignore_case` is set.
        pattern: set for REGEX only; it reads bytes, each for itself.
    """

    kind: MatchKind
    value: str = ""
    ignore_case: bool = False
    pattern: Pattern | None = None


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """A condition on a header; pseudo headers `:method`, `:authority`, `:scheme` included.

    Args:
        invert: the condition must *not* hold (Istio's withoutHeaders).
        missing_as_empty: a missing header is compared as the empty string instead of failing the match.
    """

    name: str
    match: StringMatch
    invert: bool = False
    missing_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """A condition on a query parameter. The first of several equal names counts, as in Envoy."""

    name: str
    match: StringMatch


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All conditions must hold. `path` is compared without the query."""

    path: StringMatch
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """A share of the traffic: weight divided by the sum of weights (which is above zero)."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often to try again.

    Args:
        retry_on: Envoy's words, `connect-failure`, `5xx`, `retriable-status-codes`, ...
        retries: tries after the first; at least 1.
        per_try_timeout: seconds for each try; None leaves only the route's timeout.
        status_codes: what `retriable-status-codes` means here.
        retriable_headers: response headers of which one must match for `retriable-headers`.
        backoff_base, backoff_max: seconds; a wait is uniform in [0, min(max, base * 2^(n-1))) before try n + 1.
        avoid_previous_hosts: pick another endpoint than those tried, up to `host_selection_attempts` picks.
    """

    retry_on: frozenset[str]
    retries: int
    per_try_timeout: float | None = None
    status_codes: frozenset[int] = frozenset()
    backoff_base: float = 0.025
    backoff_max: float = 0.25
    avoid_previous_hosts: bool = True
    host_selection_attempts: int = 5
    retriable_headers: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Delay:
    """Hold `fraction` (0.0 to 1.0) of the requests back for `seconds`."""

    fraction: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Abort:
    """Answer `fraction` (0.0 to 1.0) of the requests here. `grpc_status` None: an HTTP answer with `http_status`."""

    fraction: float
    http_status: int = 503
    grpc_status: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Delay and abort are drawn independently, delay first."""

    delay: Delay | None = None
    abort: Abort | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A match and what follows from it.

    Args:
        clusters: never empty; one entry means everything goes there.
        timeout: seconds for the whole exchange with all its tries; None: no limit.
        retry: None: one try only.
        origin: what in which file said so.
    """

    name: str
    match: RouteMatch
    clusters: tuple[WeightedCluster, ...]
    timeout: float | None = None
    retry: RetryPolicy | None = None
    fault: Fault | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """Routes for a set of domains: exact, `*.suffix`, `prefix.*` or `*`, in lower case."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class RouteConfiguration:
    """The first match in the best virtual host decides."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...]


class LbPolicy(Enum):
    """How an endpoint is picked."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"  # to the address that the request names


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """Mutual TLS towards a cluster.

    Args:
        sni: server name to send; empty: none.
        subject_alt_names: SPIFFE ids that may answer; never empty for mesh services.
        alpn: protocols to offer, best first.
    """

    sni: str
    subject_alt_names: frozenset[str]
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of endpoints of one service version.

    Args:
        name: `outbound|9080|v2|reviews.default.svc.cluster.local`.
        assignment: the EDS resource with its endpoints; usually the name itself. Empty: `endpoints` holds them.
        tls: used for endpoints with `Endpoint.tls`; None: plain text for all.
        connect_timeout: seconds.
        circuit_breakers, outlier_detection, connections: None: no limits, nobody is left out, nothing special.
        panic_threshold: percent of healthy endpoints below which all are used; 0: never.
    """

    name: str
    lb_policy: LbPolicy = LbPolicy.LEAST_REQUEST
    assignment: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    tls: UpstreamTls | None = None
    connect_timeout: float = 10.0
    origin: Origin | None = None
    circuit_breakers: CircuitBreakers | None = None
    outlier_detection: OutlierDetection | None = None
    panic_threshold: float = 0.0
    connections: ConnectionPolicy | None = None


@dataclass(frozen=True, slots=True)
class Locality:
    """Where something runs; empty strings are unknown."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


UNKNOWN_LOCALITY = Locality()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance. `address` is an IP address or, for ServiceEntry with DNS resolution, a host name.

    `tls`: it speaks the mesh's mutual TLS (label tlsMode=istio). `labels` and the workload names feed telemetry.
    """

    address: str
    port: int
    weight: int = 1
    healthy: bool = True
    tls: bool = False
    locality: Locality = UNKNOWN_LOCALITY
    workload: str = ""
    namespace: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str, int]:
        """What makes an endpoint the same across updates."""
        return (self.address, self.port)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The endpoints of a cluster at one moment (EDS)."""

    name: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class OutboundListener:
    """A destination `host:port` as it was asked for, and the route configuration that decides for it."""

    name: str
    route_configuration: str


class PeerMode(Enum):
    """PeerAuthentication's mutual TLS mode of a port."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"
