"""Which endpoint of a cluster a try goes to.

Rule 1: only healthy endpoints are picked, and of these none that outlier detection left out. Where too few are left, all are
picked (Envoy's panic mode; Istio turns it off with its outlier detection unless `minHealthPercent` asks for it).
Rule 2: LEAST_REQUEST draws two and takes the one with fewer active requests; with unequal weights the draw follows the weights
and requests count per weight. ROUND_ROBIN follows weights too; RANDOM does not, as in Envoy.
Rule 3: counts of active requests belong to an address and survive new assignments.

Threads share balancers and take no lock: every change is one step of a built-in type, which the interpreter makes whole.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import Callable, Container, Mapping, Set
from itertools import accumulate, count
from typing import NamedTuple

from meshlib.config.model import Assignment, Cluster, Endpoint, LbPolicy
from meshlib.outbound.limits import Breaker
from meshlib.outbound.outlier import Key, Outliers
from meshlib.outbound.route import Dice

Active = list[None]
"""One entry per request in flight. A list and not a number: append, pop and len are atomic, `+=` is not."""


class Protection(NamedTuple):
    """What guards a cluster; None: nothing. Kept over updates of its configuration."""

    breaker: Breaker | None
    outliers: Outliers | None


class Load:
    """One request in flight at an endpoint. Whoever holds it calls `done` when the response's body has ended."""

    __slots__ = ("_active", "_begun", "endpoint", "protection")

    def __init__(self, endpoint: Endpoint, active: Active, protection: Protection | None = None) -> None:
        self.endpoint = endpoint
        self.protection = protection
        self._active: Active | None = active
        self._begun = False
        active.append(None)

    def begin(self) -> bool:
        """The request has a connection and goes out; False: there are too many of them."""
        breaker = self.protection.breaker if self.protection is not None else None
        if breaker is None or self._begun:
            return True
        self._begun = self._active is not None and breaker.begin()
        return self._begun

    def done(self) -> None:
        """The request is no longer in flight. Calling it again changes nothing."""
        active, self._active = self._active, None
        if active is not None:
            active.pop()
            if self._begun:
                self._end()

    def _end(self) -> None:
        if self.protection is not None and self.protection.breaker is not None:
            self.protection.breaker.requests.leave()

    def broken(self, now: float) -> None:
        """The response broke off."""
        if self.protection is not None and self.protection.outliers is not None:
            self.protection.outliers.failed(self.endpoint.key, now, connected=True)

    def __repr__(self) -> str:
        return f"<Load {self.endpoint} {'active' if self._active is not None else 'done'}>"


class Host(NamedTuple):
    """An endpoint that can be picked, and its requests in flight."""

    endpoint: Endpoint
    active: Active
    key: Key


_UNPROTECTED = Protection(None, None)

Pick = Callable[[Dice], Host]


def _random(hosts: tuple[Host, ...]) -> Pick:
    size = len(hosts)
    return lambda dice: hosts[int(dice() * size)]


def _round_robin(hosts: tuple[Host, ...]) -> Pick:
    turn, size = count(), len(hosts)
    return lambda dice: hosts[next(turn) % size]


def _weighted_round_robin(hosts: tuple[Host, ...]) -> Pick:
    # Earliest deadline first, as Envoy's EDF scheduler: a turn comes every 1/weight.
    queue = [(1 / host.endpoint.weight, order, host) for order, host in enumerate(hosts)]
    heapq.heapify(queue)

    def pick(dice: Dice) -> Host:
        deadline, order, host = queue[0]
        heapq.heapreplace(queue, (deadline + 1 / host.endpoint.weight, order, host))
        return host

    return pick


def _least_request(hosts: tuple[Host, ...]) -> Pick:
    size = len(hosts)

    def pick(dice: Dice) -> Host:
        first, second = hosts[int(dice() * size)], hosts[int(dice() * size)]
        return second if len(second.active) < len(first.active) else first

    return pick


def _weighted_least_request(hosts: tuple[Host, ...]) -> Pick:
    bounds = list(accumulate(host.endpoint.weight for host in hosts))
    total = bounds[-1]

    def pick(dice: Dice) -> Host:
        first, second = hosts[bisect(bounds, dice() * total)], hosts[bisect(bounds, dice() * total)]
        busier = len(second.active) * first.endpoint.weight < len(first.active) * second.endpoint.weight
        return second if busier else first

    return pick


_PICKS: dict[LbPolicy, tuple[Callable[[tuple[Host, ...]], Pick], Callable[[tuple[Host, ...]], Pick]]] = {
    # by policy: for equal weights, for unequal ones
    LbPolicy.LEAST_REQUEST: (_least_request, _weighted_least_request),
    LbPolicy.ROUND_ROBIN: (_round_robin, _weighted_round_robin),
    LbPolicy.RANDOM: (_random, _random),
}


def _pick_for(policy: LbPolicy, hosts: tuple[Host, ...]) -> Pick:
    if len(hosts) == 1:
        return lambda dice: hosts[0]
    equal, unequal = _PICKS[policy]
    return equal(hosts) if len({host.endpoint.weight for host in hosts}) == 1 else unequal(hosts)


class Balancer:
    """Picks endpoints of one cluster under one assignment.

    Args:
        active: requests in flight by address; shared by the balancers that follow each other for one cluster.
        protection: None: the cluster has none.
    """

    __slots__ = (
        "_active",
        "_all",
        "_ejected",
        "_outliers",
        "_pick",
        "assignment",
        "cluster",
        "endpoints",
        "hosts",
        "protection",
    )

    def __init__(
        self,
        cluster: Cluster,
        assignment: Assignment | None,
        active: dict[Key, Active],
        protection: Protection | None = None,
    ) -> None:
        self.cluster = cluster
        self.assignment = assignment
        self.protection = protection
        self._active = active
        self._outliers = None if protection is None else protection.outliers
        self._ejected: frozenset[Key] = frozenset()
        self.endpoints = cluster.endpoints if assignment is None else assignment.endpoints
        # PASSTHROUGH has none to choose from: requests name their address themselves.
        listed = () if cluster.lb_policy is LbPolicy.PASSTHROUGH else self.endpoints
        self._all = tuple(self._host(endpoint) for endpoint in listed)
        self._choose()

    def _choose(self) -> None:
        """Settle who can be picked now."""
        if self._outliers is not None:
            self._ejected = self._outliers.ejected
        everyone, ejected = self._all, self._ejected
        hosts = tuple(host for host in everyone if host.endpoint.healthy and host.key not in ejected)
        self.hosts = everyone if panics(len(hosts), len(everyone), self.cluster.panic_threshold) else hosts
        self._pick = _pick_for(self.cluster.lb_policy, self.hosts) if self.hosts else None

    def _host(self, endpoint: Endpoint) -> Host:
        key = endpoint.key
        return Host(endpoint, self._active.setdefault(key, []), key)

    def pick(self, dice: Dice, avoid: Set[Key] = frozenset(), repicks: int = 0) -> Endpoint | None:
        """The endpoint to try, not counted as busy; None: there is none.

        Args:
            avoid: addresses tried already. One is still taken when `repicks` further draws find no other, as Envoy does.
        """
        host = self._draw(dice, avoid, repicks)
        return None if host is None else host.endpoint

    def take(self, dice: Dice, avoid: Set[Key] = frozenset(), repicks: int = 0) -> Load | None:
        """As `pick`, and the endpoint counts as busy with one request more until `Load.done`."""
        host = self._draw(dice, avoid, repicks)
        return None if host is None else Load(host.endpoint, host.active, self.protection)

    def _draw(self, dice: Dice, avoid: Set[Key], repicks: int) -> Host | None:
        if self._outliers is not None and self._outliers.ejected is not self._ejected:
            self._choose()
        if self._pick is None:
            return None
        host = self._pick(dice)
        while avoid and repicks and host.key in avoid:
            host = self._pick(dice)
            repicks -= 1
        return host

    def passthrough(self, endpoint: Endpoint) -> Load:
        """A request to an address that it named itself (LbPolicy.PASSTHROUGH)."""
        return Load(endpoint, self._active.setdefault(endpoint.key, []), self.protection)

    def active(self, key: Key) -> int:
        """Requests in flight at an address."""
        return len(self._active.get(key, ()))

    def __repr__(self) -> str:
        loads = ", ".join(f"{host.endpoint}={len(host.active)}" for host in self.hosts)
        return f"<Balancer {self.cluster.name} {self.cluster.lb_policy.value} {loads}>"


def panics(healthy: int, all_: int, threshold: float) -> bool:
    """Whether too few are healthy (Envoy: LoadBalancerBase::recalculatePerPriorityPanic).

    Args:
        threshold: percent. Above 71 it makes no difference: with a factor of 1.4 for spare capacity that is health enough.
    """
    return all_ > 0 and 100 * healthy < round(threshold) * all_ and 140 * healthy // all_ < 100


class Balancers:
    """The balancers of a mesh, one per cluster, kept while cluster and assignment are the same objects."""

    __slots__ = ("_active", "_by_cluster", "_protections")

    def __init__(self) -> None:
        self._by_cluster: dict[str, Balancer] = {}
        self._active: dict[str, dict[Key, Active]] = {}
        self._protections: dict[str, Protection] = {}

    def of(self, cluster: Cluster, assignment: Assignment | None) -> Balancer:
        """The balancer of a cluster.

        Args:
            assignment: its endpoints; None: `Cluster.endpoints` holds them.
        """
        balancer = self._by_cluster.get(cluster.name)
        if balancer is None or balancer.assignment is not assignment or balancer.cluster is not cluster:
            active = self._active.setdefault(cluster.name, {})
            endpoints = cluster.endpoints if assignment is None else assignment.endpoints
            keys = {endpoint.key for endpoint in endpoints}
            balancer = Balancer(cluster, assignment, active, self._protection(cluster, keys))
            self._by_cluster[cluster.name] = balancer
            _forget_idle(active, keys)
        return balancer

    def _protection(self, cluster: Cluster, keys: Set[Key]) -> Protection | None:
        """What guarded the cluster before, under the rules of now."""
        breaker, outliers = self._protections.get(cluster.name, _UNPROTECTED)
        if cluster.circuit_breakers is None:
            breaker = None
        elif breaker is None:
            breaker = Breaker(cluster.circuit_breakers)
        else:
            breaker.limits = cluster.circuit_breakers
        if cluster.outlier_detection is None:
            outliers = None
        else:
            outliers = outliers or Outliers(cluster.outlier_detection)
            outliers.update(cluster.outlier_detection, keys)
        if breaker is None and outliers is None:
            self._protections.pop(cluster.name, None)
            return None
        found = self._protections[cluster.name] = Protection(breaker, outliers)
        return found

    @property
    def protections(self) -> Mapping[str, Protection]:
        """What guards clusters, by their names."""
        return self._protections.copy()

    def keep(self, names: Container[str]) -> None:
        """Forget clusters that are not named any more; requests in flight there end undisturbed."""
        # A copy of the names in one step: requests on other threads add clusters meanwhile.
        for name in [name for name in list(self._by_cluster) if name not in names]:
            self._by_cluster.pop(name, None)
            self._active.pop(name, None)
            self._protections.pop(name, None)


def _forget_idle(active: dict[Key, Active], keep: Set[Key]) -> None:
    for key, requests in list(active.items()):
        if not requests and key not in keep:
            active.pop(key, None)
