"""What an inbound listener says, as plain frozen values: the words are xDS's, the protobuf is gone.

`decode` and `decode_policy` make them, `inbound/admit` obeys them in the order in which the listener names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from meshlib.config.model import HeaderMatch, Origin, Pattern, PeerMode, StringMatch


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


class Condition:
    """A part of an authorization policy: something that holds of a request, or not."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Always(Condition):
    """Holds of every request."""


@dataclass(frozen=True, slots=True)
class All(Condition):
    """Every part holds; of no parts: it holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf(Condition):
    """One of the parts holds; of no parts: it does not."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The part does not hold."""

    part: Condition


@dataclass(frozen=True, slots=True)
class Header(Condition):
    """A header or pseudo header."""

    match: HeaderMatch


@dataclass(frozen=True, slots=True)
class UrlPath(Condition):
    """The path without query and fragment."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class UriTemplate(Condition):
    """The path without query and fragment, by a template as `/users/*/posts/**`."""

    template: str
    pattern: Pattern


class Address(Enum):
    """Whose address a condition is about."""

    DESTINATION = "destination_ip"
    DIRECT = "direct_remote_ip"  # the other end of the connection; source_ip is the same
    REMOTE = "remote_ip"  # what the last proxy says about its client, in x-forwarded-for


@dataclass(frozen=True, slots=True)
class Ip(Condition):
    """An address in a network."""

    address: Address
    network: IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Port(Condition):
    """Our port is one of `first`, ..., `last`."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ServerName(Condition):
    """What the client named in its TLS hello; empty without TLS."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class Authenticated(Condition):
    """The SPIFFE id that the peer proved. `match` None: any."""

    match: StringMatch | None = None


class ValueMatch:
    """A comparison with a value of the dynamic metadata."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class NullValue(ValueMatch):
    """It is null."""


@dataclass(frozen=True, slots=True)
class TextValue(ValueMatch):
    """It is a text."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class NumberValue(ValueMatch):
    """It is a number from `start` up to and without `end`, or exactly `start` if there is no end."""

    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class BoolValue(ValueMatch):
    """It is true, or false."""

    value: bool


@dataclass(frozen=True, slots=True)
class PresentValue(ValueMatch):
    """It is there. `wanted` False never holds (Envoy)."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class ListValue(ValueMatch):
    """It is a list and one of its values fits."""

    one: ValueMatch | None


@dataclass(frozen=True, slots=True)
class OrValue(ValueMatch):
    """One of the comparisons fits."""

    parts: tuple[ValueMatch, ...]


@dataclass(frozen=True, slots=True)
class Metadata(Condition):
    """What an earlier filter found out.

    Args:
        namespace: usually the filter's name.
        path: the keys that lead to the value.
    """

    namespace: str
    path: tuple[str, ...]
    value: ValueMatch
    invert: bool = False


class Action(Enum):
    """What a policy that holds does."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    LOG = "LOG"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may do what: it holds if `permission` and `principal` do.

    Args:
        name: under Istio `ns[default]-policy[reviews]-rule[0]`.
    """

    name: str
    permission: Condition
    principal: Condition


@dataclass(frozen=True, slots=True)
class Rules:
    """Policies of one action, in the order of their names: the first one that holds is named."""

    action: Action
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Rbac(Filter):
    """May it enter, by the policies for this port (envoy.filters.http.rbac).

    Args:
        rules: None: everybody may.
        shadow: decides nothing; what it would have decided is noted (Istio's dry run).
        shadow_prefix: of the keys of the dynamic metadata that hold this.
    """

    rules: Rules | None = None
    shadow: Rules | None = None
    shadow_prefix: str = ""


@dataclass(frozen=True, slots=True)
class InboundListener:
    """What a port of ours accepts.

    Args:
        filters: in the order in which they decide about a request.
        origins: where the policies of the filters were written down, by their names.
        trust_domains: of peers that may come in by mutual TLS; empty: any that a root vouches for.
    """

    name: str
    mode: PeerMode
    origin: Origin | None = None
    filters: tuple[Filter, ...] = ()
    normalization: Normalization = AS_WRITTEN
    origins: Mapping[str, Origin] = field(default_factory=dict, hash=False)
    trust_domains: frozenset[str] = frozenset()
