"""RateLimit (meshlib.dev): how many requests may enter, or what the application counts by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from meshlib_control.kinds.base import Duration, DurationOrZero, NonEmpty, Port, Spec
from meshlib_control.kinds.common import LabelSelector, StringMatch

Amount = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Values = Annotated[int, Meta(ge=1, le=100_000)]


class RequestMatch(Spec, frozen=True):
    """Which requests count: all conditions hold. The path is compared without its query."""

    path: StringMatch | None = None
    method: StringMatch | None = None
    headers: Mapping[str, StringMatch] = {}


class Key(Spec, frozen=True):
    """What keeps requests apart; each value is counted by itself. A request without it is not counted.

    Args:
        claim: of the user's token, as RequestAuthentication has proved it.
        peer: the SPIFFE id of the caller's certificate.
        remote_address: the caller's IP address.
    """

    one_of: ClassVar = (("header", "query", "claim", "peer", "remoteAddress"),)

    header: NonEmpty | None = None
    query: NonEmpty | None = None
    claim: NonEmpty | None = None
    peer: bool = False
    remote_address: bool = False


class LocalLimit(Spec, frozen=True):
    """Buckets of each process.

    Args:
        requests: that come back in `per`, evenly.
        burst: what a bucket holds; `requests` if not given.
        values: of the keys that are kept apart; the one not seen for longest is forgotten.
    """

    requests: Amount
    per: Duration
    burst: Amount | None = None
    values: Values = 1000


class GlobalLimit(Spec, frozen=True):
    """A service that counts for all processes, and knows the amounts.

    Args:
        host: of the service, as in a route's destination.
        timeout: for its answer.
        fail_closed: without an answer nobody enters.
    """

    host: NonEmpty
    port: Port
    domain: NonEmpty
    timeout: DurationOrZero = DurationOrZero(0.02)
    fail_closed: bool = False


class ApplicationLimit(Spec, frozen=True):
    """The application asks, with a value for each of the keys."""

    keys: tuple[NonEmpty, ...] = ()


class RateLimit(Spec, frozen=True):
    """A limit. It is for requests, unless `application` is given: then for what the application counts."""

    one_of: ClassVar = (("local", "global"), ("application", "keys"), ("application", "match"))

    selector: LabelSelector | None = None
    match: RequestMatch | None = None
    keys: tuple[Key, ...] = ()
    application: ApplicationLimit | None = None
    local: LocalLimit | None = None
    global_: GlobalLimit | None = msgspec.field(default=None, name="global")
