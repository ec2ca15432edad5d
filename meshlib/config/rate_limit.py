"""How many requests may enter: Envoy's two rate limit filters as plain frozen values.

An action says what of a request counts as an entry; the entries of a rule's actions make a descriptor. The local filter finds
a bucket of this process by it, the global one asks a service about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.config.model import HeaderMatch, Origin, QueryMatch
from meshlib.config.policy import Filter
from meshlib.facts import Headers

Entries = tuple[tuple[str, str], ...]
"""A descriptor: keys and values in order. In the configuration an empty value stands for any."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A bucket that starts full.

    Args:
        max_tokens: what it holds, at least 1.
        tokens_per_fill: what comes back in `fill_interval` seconds. Envoy 1.40 fills evenly, not at the interval's end.
    """

    max_tokens: int
    tokens_per_fill: int
    fill_interval: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens_per_fill / self.fill_interval


@dataclass(frozen=True, slots=True)
class Constant:
    """An entry that is the same for every request."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class SourceCluster:
    """Envoy's `--service-cluster`: who limits."""

    key: str = "source_cluster"


@dataclass(frozen=True, slots=True)
class DestinationCluster:
    """The cluster that the route leads to; here our own port, `inbound|9080||`."""

    key: str = "destination_cluster"


@dataclass(frozen=True, slots=True)
class HeaderValue:
    """The first value of a header; pseudo headers included. `optional`: without it the entry is left out."""

    name: str
    key: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class QueryValue:
    """The first value of a query parameter. `optional`: without it the entry is left out."""

    name: str
    key: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """The client's IP address."""

    key: str = "remote_address"


@dataclass(frozen=True, slots=True)
class MaskedRemoteAddress:
    """The client's network, `10.1.0.0/16`; the lengths are those of IPv4 and IPv6 prefixes."""

    v4: int = 32
    v6: int = 128
    key: str = "masked_remote_address"


@dataclass(frozen=True, slots=True)
class HeadersMatch:
    """A fixed value if all conditions hold; with `expected` False: if they do not."""

    key: str
    value: str
    headers: tuple[HeaderMatch, ...]
    expected: bool = True


@dataclass(frozen=True, slots=True)
class QueryMatches:
    """As `HeadersMatch`, on the query."""

    key: str
    value: str
    query: tuple[QueryMatch, ...]
    expected: bool = True


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """A text that an earlier filter left in the dynamic metadata. Without it: `default`, else left out if `optional`.

    Args:
        path: the namespace first, as in `("envoy.filters.http.jwt_authn", "payload", "sub")`.
    """

    key: str
    path: tuple[str, ...]
    default: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The SPIFFE id of the client's certificate."""

    key: str


Action = (
    Constant
    | SourceCluster
    | DestinationCluster
    | HeaderValue
    | QueryValue
    | RemoteAddress
    | MaskedRemoteAddress
    | HeadersMatch
    | QueryMatches
    | MetadataValue
    | PeerIdentity
)

OF_APPLICATION = "meshlib.application"
"""The namespace of metadata that holds what the application gives for its own limits."""

Rule = tuple[Action, ...]
"""The actions of one descriptor. One that has nothing to give and is not optional takes the whole descriptor away (Envoy)."""


@dataclass(frozen=True, slots=True)
class Named:
    """A bucket for the requests of a descriptor. An entry with an empty value gives each value a bucket of its own."""

    entries: Entries
    bucket: TokenBucket


@dataclass(frozen=True, slots=True)
class LocalRateLimit(Filter):
    """`envoy.filters.http.local_ratelimit`: buckets of this process.

    Args:
        name: of the filter; buckets belong to it.
        bucket: for requests without a descriptor of their own, and with `always_default` for all; None: no such limit.
        enabled, enforced: fractions of 1.0 of the requests that count, and that are refused if the bucket is empty.
        status: of a refusal.
        refused_headers: join the refusal.
        passed_headers: join the request to the application if it would have been refused but is not `enforced`.
        tell: `x-ratelimit-*` headers join every response.
        exhausted: gRPC calls get RESOURCE_EXHAUSTED instead of UNAVAILABLE.
        most_values: values that an entry with an empty value keeps apart; the one not seen for longest is forgotten.
        of_application: not for requests: the application asks for it by its name.
    """

    name: str
    bucket: TokenBucket | None = None
    named: tuple[Named, ...] = ()
    rules: tuple[Rule, ...] = ()
    always_default: bool = True
    enabled: float = 0.0
    enforced: float = 0.0
    status: int = 429
    refused_headers: Headers = ()
    passed_headers: Headers = ()
    tell: bool = False
    exhausted: bool = False
    most_values: int = 20
    of_application: bool = False
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class GlobalRateLimit(Filter):
    """`envoy.filters.http.ratelimit`: a service that counts for many processes is asked.

    Args:
        target: `host:port` of the service.
        timeout: seconds for the answer.
        closed: no answer refuses the request with `error_status`; else it lets it in.
        tell, exhausted, enabled, enforced, status, refused_headers, of_application: as in `LocalRateLimit`.
        marked: refusals carry `x-envoy-ratelimited: true`.
    """

    name: str
    domain: str
    target: str
    timeout: float = 0.02
    closed: bool = False
    rules: tuple[Rule, ...] = ()
    enabled: float = 1.0
    enforced: float = 1.0
    status: int = 429
    error_status: int = 500
    refused_headers: Headers = ()
    tell: bool = False
    marked: bool = True
    exhausted: bool = False
    of_application: bool = False
    origin: Origin | None = None
