"""The decision about a request, with every step and its reason: what `meshlib explain` shows.

It asks the functions that decide (`route`, `terms`, `balance`), so it cannot tell another story. Only the dice are missing:
shares and fractions are told instead of one draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshlib.config.model import (
    Cluster,
    Fault,
    HeaderMatch,
    LbPolicy,
    Origin,
    QueryMatch,
    RetryPolicy,
    Route,
    StringMatch,
    VirtualHost,
)
from meshlib.facts import Request
from meshlib.match import bare_path, query_parameters, shown, unmet_header, wanted
from meshlib.outbound.balance import Balancers
from meshlib.outbound.exchange import balancer_for, named_endpoint
from meshlib.outbound.hop import sanitized
from meshlib.outbound.match import Condition, unmet
from meshlib.outbound.route import domain_rank, first_match, virtual_host
from meshlib.outbound.terms import terms_of
from meshlib.path import normalized

if TYPE_CHECKING:
    from meshlib.config.snapshot import Destination


@dataclass(frozen=True, slots=True)
class Considered:
    """A route that was looked at. `reason`: which condition failed; empty: all hold, so this route decides."""

    route: str
    reason: str
    origin: Origin | None

    @property
    def matched(self) -> bool:
        """Whether this route decides."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint of a cluster, and whether it may be picked. `active`: requests in flight from this process."""

    address: str
    healthy: bool
    tls: bool
    active: int
    workload: str


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster that the route names.

    Args:
        percent: share of the requests, 0 to 100.
        problem: why a request that goes here fails, with Envoy's flag; empty: it does not.
        origin: the DestinationRule that shaped the cluster.
    """

    cluster: str
    percent: float
    policy: str
    candidates: tuple[Candidate, ...]
    identities: tuple[str, ...]
    problem: str
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to a request, and who said so.

    Args:
        authority: the destination that was asked.
        virtual_host, domain: the best virtual host and its domain that fits; empty: none does.
        considered: routes in order, up to the one that decides.
        route: name of the route that decides; None: no route (404 NR).
        origin: object, file and line of that route.
        timeout, per_try_timeout: seconds; None: no limit.
        retry: in force for this request; None: one try.
        fault: injected before the request leaves.
    """

    authority: str
    virtual_host: str
    domain: str
    considered: tuple[Considered, ...] = ()
    route: str | None = None
    origin: Origin | None = None
    targets: tuple[Target, ...] = ()
    timeout: float | None = None
    per_try_timeout: float | None = None
    retry: RetryPolicy | None = None
    fault: Fault | None = None


def explain(destination: Destination, request: Request, balancers: Balancers | None = None) -> Explanation:
    """What `exchange` would do with a request.

    Args:
        balancers: those in use, to tell requests in flight; None: nothing is in flight.
    """
    request = sanitized(request) or request
    request = replace(request, path=normalized(request.path) or request.path)
    host = virtual_host(destination.routes, request.authority)
    if host is None:
        return Explanation(destination.authority, "", "")
    domain = max(host.domains, key=lambda name: domain_rank(name, request.authority.lower()))
    route = first_match(host, request)
    considered = _considered(host, route, request)
    if route is None:
        return Explanation(destination.authority, host.name, domain, considered)
    terms = terms_of(route, request)
    return Explanation(
        destination.authority,
        host.name,
        domain,
        considered,
        route.name,
        route.origin,
        _targets(destination, route, request, balancers or Balancers()),
        terms.timeout,
        terms.per_try,
        terms.retry,
        route.fault,
    )


def _considered(host: VirtualHost, chosen: Route | None, request: Request) -> tuple[Considered, ...]:
    path = bare_path(request.path)
    last = next((place for place, route in enumerate(host.routes) if route is chosen), len(host.routes))
    return tuple(
        Considered(route.name, describe(unmet(route.match, request, path), request), route.origin)
        for route in host.routes[: last + 1]
    )


def _targets(destination: Destination, route: Route, request: Request, balancers: Balancers) -> tuple[Target, ...]:
    total = sum(cluster.weight for cluster in route.clusters)
    return tuple(
        _target(destination, cluster.name, 100 * cluster.weight / total, request, balancers) for cluster in route.clusters
    )


def _target(destination: Destination, name: str, percent: float, request: Request, balancers: Balancers) -> Target:
    cluster = destination.clusters.get(name)
    if cluster is None:
        return Target(name, percent, "", (), (), "NC: the cluster does not exist: no such service or subset", None)
    candidates = _candidates(destination, cluster, request, balancers)
    problem = "" if any(one.healthy for one in candidates) else "UH: no healthy endpoint"
    identities = tuple(sorted(cluster.tls.subject_alt_names)) if cluster.tls else ()
    return Target(name, percent, cluster.lb_policy.value, candidates, identities, problem, cluster.origin)


def _candidates(destination: Destination, cluster: Cluster, request: Request, balancers: Balancers) -> tuple[Candidate, ...]:
    if cluster.lb_policy is LbPolicy.PASSTHROUGH:
        return (Candidate(str(named_endpoint(request)), True, False, 0, ""),)
    balancer = balancer_for(destination, cluster, balancers)
    usable = {host.key for host in balancer.hosts}
    secured = cluster.tls is not None
    return tuple(
        Candidate(str(one), one.key in usable, one.tls and secured, balancer.active(one.key), one.workload)
        for one in balancer.endpoints
    )


def describe(condition: Condition | None, request: Request) -> str:
    """Why a request does not meet a condition, for people; empty for None."""
    match condition:
        case None:
            return ""
        case HeaderMatch():
            return unmet_header(condition, request)
        case QueryMatch(name, match):
            parameters = query_parameters(request.path)
            seen = shown([parameters[name]] if name in parameters else [])
            return f"query parameter {name} must be {wanted(match)}, it is {seen}"
        case StringMatch():
            return f"path must be {wanted(condition)}, it is {bare_path(request.path)!r}"
