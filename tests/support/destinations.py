"""Words for destinations in tests: routes, clusters and endpoints in a line each, a clock and dice that do as told."""

from __future__ import annotations

from collections.abc import Iterable

import re2

from meshlib.config.model import (
    Assignment,
    Cluster,
    Endpoint,
    HeaderMatch,
    LbPolicy,
    MatchKind,
    Origin,
    QueryMatch,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshlib.config.snapshot import Absent, Destination
from meshlib.facts import Request

ORIGIN = Origin("VirtualService default/reviews", "virtual-service-reviews.yaml", 12, "spec.http[0]")
ISTIO_DEFAULT = frozenset({"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"})


class Clock:
    """A clock that stands still until it is told how much time passed."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Dice:
    """Dice that show these numbers, then the last one for ever; `thrown` counts."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)
        self.thrown = 0

    def __call__(self) -> float:
        self.thrown += 1
        return self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]


def exact(value: str) -> StringMatch:
    return StringMatch(MatchKind.EXACT, value)


def prefix(value: str) -> StringMatch:
    return StringMatch(MatchKind.PREFIX, value)


def regex(value: str) -> StringMatch:
    return StringMatch(MatchKind.REGEX, value, pattern=re2.compile(value))


PRESENT = StringMatch(MatchKind.PRESENT)


def match(
    path: StringMatch | None = None, headers: Iterable[HeaderMatch] = (), query: Iterable[QueryMatch] = ()
) -> RouteMatch:
    return RouteMatch(path or prefix("/"), tuple(headers), tuple(query))


def route(name: str = "default", to: str | dict[str, int] = "v1", *, when: RouteMatch | None = None, **rest: object) -> Route:
    shares = {to: 1} if isinstance(to, str) else to
    clusters = tuple(WeightedCluster(cluster, weight) for cluster, weight in shares.items())
    return Route(name, when or match(), clusters, origin=ORIGIN, **rest)  # type: ignore[arg-type]


def endpoints(count: int, *, healthy: bool = True) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{number + 1}", 9080, healthy=healthy) for number in range(count))


def destination(
    *routes: Route,
    clusters: dict[str, tuple[Endpoint, ...]] | None = None,
    policy: LbPolicy = LbPolicy.LEAST_REQUEST,
    domains: tuple[str, ...] = ("*",),
) -> Destination:
    members = {"v1": endpoints(3)} if clusters is None else clusters
    return Destination(
        "reviews:9080",
        RouteConfiguration("reviews:9080", (VirtualHost("reviews", domains, routes or (route(),)),)),
        {name: Cluster(name, policy, assignment=name) for name in members},
        {name: Assignment(name, members[name]) for name in members},
    )


def request(path: str = "/reviews/0", method: str = "GET", authority: str = "reviews:9080", **headers: str) -> Request:
    """A request; `end_user="jason"` is the header `end-user`."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(method, "http", authority, path, named)


def retries(*retry_on: str, count: int = 2, **rest: object) -> RetryPolicy:
    return RetryPolicy(frozenset(retry_on) or ISTIO_DEFAULT, count, **rest)  # type: ignore[arg-type]


def ports(found: Destination | Absent | None) -> list[int]:
    """The ports of all endpoints of something known."""
    assert isinstance(found, Destination)
    return [endpoint.port for one in found.assignments.values() for endpoint in one.endpoints]
