"""Which route a request takes: best domain, first match, weighted share.

Rule 1: domains rank exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*` (Envoy VirtualHost.domains).
A star stands for at least one character.
Rule 2: inside a virtual host the first route whose conditions all hold decides; no other virtual host is looked at.
Rule 3: a share is weight divided by the sum of weights. One cluster alone costs no draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshlib.config.model import Route, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.facts import Request
from meshlib.match import bare_path
from meshlib.outbound.match import unmet

Dice = Callable[[], float]
"""Chance as an argument: uniform in [0.0, 1.0)."""

_Rank = tuple[int, int]
_NO_MATCH: _Rank = (0, 0)
_ANY: _Rank = (1, 0)


class Chosen(NamedTuple):
    """The route and the cluster that was drawn from its shares."""

    route: Route
    cluster_name: str


def domain_rank(domain: str, host: str) -> tuple[int, int]:
    """How well a domain fits a host in lower case: the higher the better, (0, 0) not at all."""
    if domain == host:
        return (4, 0)
    if domain == "*":
        return _ANY
    if len(host) < len(domain):
        return _NO_MATCH
    if domain.startswith("*") and host.endswith(domain[1:]):
        return (3, len(domain))
    if domain.endswith("*") and host.startswith(domain[:-1]):
        return (2, len(domain))
    return _NO_MATCH


def virtual_host(routes: RouteConfiguration, authority: str) -> VirtualHost | None:
    """The virtual host with the best domain for an authority; None if none fits."""
    hosts = routes.virtual_hosts
    if len(hosts) == 1 and "*" in hosts[0].domains:
        return hosts[0]  # the usual shape of a mesh destination; which of its domains fits changes nothing
    host = authority.lower()
    best, found = _NO_MATCH, None
    for candidate in hosts:
        rank = max((domain_rank(domain, host) for domain in candidate.domains), default=_NO_MATCH)
        if rank > best:
            best, found = rank, candidate
    return found


def first_match(host: VirtualHost, request: Request) -> Route | None:
    """The first route whose conditions all hold."""
    path = bare_path(request.path)
    for route in host.routes:
        if unmet(route.match, request, path) is None:
            return route
    return None


def share(clusters: tuple[WeightedCluster, ...], dice: Dice) -> str:
    """The name of the cluster that the dice give; a weight of zero is never drawn."""
    if len(clusters) == 1:
        return clusters[0].name
    left = dice() * sum(cluster.weight for cluster in clusters)
    for cluster in clusters:
        left -= cluster.weight
        if left < 0:
            return cluster.name
    # Rounding may leave a hair above zero when the dice show just under one.
    return next(cluster.name for cluster in reversed(clusters) if cluster.weight)


def choose(routes: RouteConfiguration, request: Request, dice: Dice) -> Chosen | None:
    """The route and cluster for a request; None: no route (Envoy answers 404 NR)."""
    host = virtual_host(routes, request.authority)
    route = first_match(host, request) if host is not None else None
    return None if route is None else Chosen(route, share(route.clusters, dice))
