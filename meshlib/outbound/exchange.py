"""The way of a request out, in one place: route, fault, balance, send, retry.

`exchange` is a generator without I/O. A driver carries it out: it waits for a `Pause` and answers None, it sends a `Send`
and answers with the head of the response or a `Failure`; a `Deliver` or a `LocalReply` is the return value of the generator.

    driver = exchange(destination, request, balancers, monotonic, random)
    step = next(driver)          # StopIteration.value: Deliver | LocalReply
    step = driver.send(outcome)  # raises UpstreamError: the request did not come back

Rule 1: what configuration answers (an injected abort, no route) is a response; what the network does is an exception.
Rule 2: the route's timeout starts after an injected delay and covers all tries, their back-off and the response's body.
Rule 3: a driver that stops early closes the generator; the endpoint's load is then released. After `Deliver` the driver owns
it.
Rule 4: where `Send.breaker` is set, the driver asks it for a connection and then calls `Send.load.begin`; what is refused is
answered with `OVERFLOW`. With `multiplexed` there is nothing to ask, and `begin` is called here.
Rule 5: a response that is followed by another `Pause` or `Send` is not delivered: the driver drops its body.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meshlib.config.model import Cluster, Endpoint, LbPolicy, Route
from meshlib.errors import (
    ConnectFailure,
    ConnectionTerminated,
    NoCluster,
    NoHealthyUpstream,
    ProtocolFailure,
    Sighting,
    UpstreamError,
    UpstreamOverflow,
    UpstreamTimeout,
)
from meshlib.facts import Failure, FailureKind, Headers, Request, Response
from meshlib.outbound import fault
from meshlib.outbound.balance import Balancer, Balancers, Load
from meshlib.outbound.hop import sanitized
from meshlib.outbound.limits import Breaker
from meshlib.outbound.outlier import Key
from meshlib.outbound.reply import answer, http_status_of, is_grpc, plain
from meshlib.outbound.retry import Final, decide
from meshlib.outbound.route import Chosen, Dice, choose
from meshlib.outbound.terms import ATTEMPT_COUNT, EXPECTED_TIMEOUT, terms_of
from meshlib.path import normalized

if TYPE_CHECKING:
    from meshlib.config.snapshot import Destination

Clock = Callable[[], float]
"""Time as an argument: seconds, never going back."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then answer None."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request to an endpoint and answer with the response's head or a Failure.

    Args:
        attempt: from 1.
        timeout: seconds for this try from connecting to the response's head, then answer Failure(TIMEOUT); None: no limit.
            A driver with limits of its own that end the whole request closes the generator instead.
        headers: to add to this try.
        request: what to send: the caller's request without the headers that were orders to this machine.
        deadline: time of the clock at which the whole exchange must be over; None: no limit.
        load: this try, for its circuit breaker.
    """

    endpoint: Endpoint
    cluster: Cluster
    attempt: int
    timeout: float | None
    headers: Headers
    request: Request
    deadline: float | None
    load: Load

    @property
    def breaker(self) -> Breaker | None:
        """Limits on connections and on what waits for them; None: there are none."""
        protection = self.load.protection
        return None if protection is None else protection.breaker


@dataclass(frozen=True, slots=True)
class Deliver:
    """The response whose head was just answered is the one for the caller.

    Args:
        attempts: tries made, this one included.
        load: `load.done()` when the body has ended, failed or was given up.
        deadline: time of the clock at which the body must be complete; None: no limit. After it: UpstreamTimeout.
        flag: Envoy's response flags, empty for none: `DI` after an injected delay, `URX` when retries were used up.
    """

    route: Route
    cluster: Cluster
    endpoint: Endpoint
    attempts: int
    load: Load
    deadline: float | None = None
    flag: str = ""


@dataclass(frozen=True, slots=True)
class LocalReply:
    """An answer that configuration gives; nothing was sent.

    Args:
        flag: Envoy's response flags: `FI`, `DI,FI`, `NR`.
        detail: Envoy's response code details.
        cluster: where the request would have gone; empty: nothing was chosen.
    """

    status: int
    headers: Headers
    body: bytes
    flag: str
    detail: str
    route: Route | None = None
    cluster: str = ""


CROWDED = Final("too many retries are under way")
"""The outcome deserved another try, but the circuit breaker forbids it."""

Exchange = Generator[Pause | Send, Response | Failure | None, Deliver | LocalReply]

_ERRORS: dict[FailureKind, type[UpstreamError]] = {
    FailureKind.CONNECT: ConnectFailure,
    FailureKind.RESET: ConnectionTerminated,
    FailureKind.TIMEOUT: UpstreamTimeout,
    FailureKind.PROTOCOL: ProtocolFailure,
    FailureKind.OVERFLOW: UpstreamOverflow,
}

OVERFLOW = Failure(FailureKind.OVERFLOW, "overflow", sent=False)
"""A circuit breaker is open (Envoy's word for it)."""

_FIRST_TRY: Headers = ((ATTEMPT_COUNT, "1"),)


def exchange(
    destination: Destination,
    request: Request,
    balancers: Balancers,
    clock: Clock,
    dice: Dice,
    *,
    replayable: bool = True,
    until: float | None = None,
    multiplexed: bool = False,
) -> Exchange:
    """One request to its end.

    Args:
        multiplexed: requests share connections (HTTP/2).
        replayable: whether the body can be sent again after an answer (bytes or none: yes; a stream: no).
        until: time of the clock at which the caller stops waiting; a limit beside the route's, also of an injected delay.

    Raises:
        UpstreamError: no cluster, no endpoint, or the last try failed; with what the mesh saw.
    """
    clean = sanitized(request)
    if clean is None:
        return LocalReply(*plain(request, 400, b"Bad Request"), "DPE", "http1.connection_header_rejected")
    path = normalized(clean.path)
    if path is None:
        return LocalReply(*answer(request, 400, b""), "", "path_normalization_failed")
    request = clean if path == clean.path else replace(clean, path=path)
    chosen = choose(destination.routes, request, dice)
    if chosen is None:
        return LocalReply(*answer(request, 404, b""), "NR", "route_not_found")
    delayed = ""
    if chosen.route.fault is not None:
        drawn = fault.draw(chosen.route.fault, dice)
        if drawn.delay:
            delayed = fault.DELAY_FLAG
            yield Pause(drawn.delay if until is None else max(0.0, min(drawn.delay, until - clock())), "fault delay")
        if drawn.abort is not None:
            status, headers, body = fault.answer(drawn.abort, request)
            flags = joined_flags(delayed, fault.ABORT_FLAG)
            return LocalReply(status, headers, body, flags, "fault_filter_abort", chosen.route, chosen.cluster_name)
    trip = _Trip(destination, chosen, request, balancers, delayed)
    try:
        return (yield from _tries(trip, clock, dice, replayable, until, multiplexed))
    finally:
        trip.settle_retry()


def _tries(trip: _Trip, clock: Clock, dice: Dice, replayable: bool, until: float | None, multiplexed: bool) -> Exchange:
    terms = trip.terms
    deadline = None if terms.timeout is None else clock() + terms.timeout
    left, whose = terms.timeout, "the route's timeout"
    if until is not None and (deadline is None or until < deadline):
        deadline, left, whose = until, until - clock(), "the caller's deadline"
        if left <= 0:
            raise trip.error(UpstreamTimeout, f"{whose} passed before the request was sent")
    while True:
        load = trip.take(dice, clock)
        try:
            crowded = multiplexed and not load.begin()
            outcome = OVERFLOW if crowded else (yield trip.send(load, left, deadline))
        except BaseException:  # the driver gave up: whatever the reason, the load must go
            load.done()
            raise
        assert outcome is not None, "a Send is answered with a Response or a Failure"
        left = None if deadline is None else deadline - clock()
        trip.settle_retry()
        if load.protection is not None:
            trip.judge(load, outcome, clock)
        if trip.out_of_time(outcome, left):
            load.done()
            raise trip.error(UpstreamTimeout, f"{whose} passed")
        verdict = decide(terms.retry, trip.attempt, outcome, dice, replayable=replayable)
        if not isinstance(verdict, Final) and not trip.may_retry(load):
            verdict = CROWDED
        if isinstance(verdict, Final):
            return trip.end(outcome, load, verdict, deadline)
        load.done()
        yield Pause(verdict.wait if left is None else min(verdict.wait, left), f"retry {trip.attempt}: {verdict.why}")
        left = None if deadline is None else deadline - clock()
        if left is not None and left <= 0:
            raise trip.error(UpstreamTimeout, f"{whose} passed while waiting for the next try")


class _Trip:
    """One request's tries: where they go, what was tried, what to say about it."""

    __slots__ = (
        "_balancer",
        "_delayed",
        "_destination",
        "_endpoint",
        "_limited_by_route",
        "_request",
        "_retrying",
        "_route",
        "_tried",
        "attempt",
        "cluster",
        "terms",
    )

    def __init__(self, destination: Destination, chosen: Chosen, request: Request, balancers: Balancers, delayed: str) -> None:
        self._destination = destination
        self._route = chosen.route
        self._request = request
        self._delayed = delayed
        self._endpoint: Endpoint | None = None
        self._tried: frozenset[Key] = frozenset()
        self._limited_by_route = True
        self._retrying: Breaker | None = None
        self.attempt = 0
        cluster = destination.clusters.get(chosen.cluster_name)
        if cluster is None:
            raise NoCluster(self._sighting(joined_flags("NC", delayed), "the cluster does not exist", chosen.cluster_name))
        self.cluster = cluster
        self.terms = terms_of(chosen.route, request)
        self._balancer = balancer_for(destination, cluster, balancers)

    def take(self, dice: Dice, clock: Clock) -> Load:
        """An endpoint for the next try, counted as busy. Raises NoHealthyUpstream."""
        protection = self._balancer.protection
        if protection is not None and protection.outliers is not None:
            protection.outliers.sweep(clock())
        if self.cluster.lb_policy is LbPolicy.PASSTHROUGH:
            load: Load | None = self._balancer.passthrough(named_endpoint(self.terms.request))
        elif self._endpoint is not None:
            self._tried = self._tried | {self._endpoint.key}
            load = self._balancer.take(dice, self._tried, self._repicks())
        else:
            load = self._balancer.take(dice)
        if load is None:
            raise self.error(NoHealthyUpstream, "no healthy endpoint")
        self._endpoint = load.endpoint
        self.attempt += 1
        return load

    def _repicks(self) -> int:
        policy = self.terms.retry
        return policy.host_selection_attempts if policy is not None and policy.avoid_previous_hosts else 0

    def send(self, load: Load, left: float | None, deadline: float | None) -> Send:
        """The next try. `left`: seconds until the deadline of the whole exchange."""
        terms = self.terms
        self._limited_by_route = terms.per_try is None or (left is not None and left <= terms.per_try)
        limit = left if self._limited_by_route else terms.per_try
        headers = _FIRST_TRY if self.attempt == 1 else ((ATTEMPT_COUNT, str(self.attempt)),)
        if limit is not None:
            # At least 1: zero would tell the upstream that there is no limit (Envoy does the same).
            headers = (*headers, (EXPECTED_TIMEOUT, str(max(1, int(limit * 1000)))))
        return Send(load.endpoint, self.cluster, self.attempt, limit, headers, terms.request, deadline, load)

    def judge(self, load: Load, outcome: Response | Failure, clock: Clock) -> None:
        """Tell outlier detection how a try went. What overflowed, or ran out of time unconnected, says nothing (Envoy)."""
        assert load.protection is not None
        outliers, key = load.protection.outliers, load.endpoint.key
        if outliers is None:
            return
        if isinstance(outcome, Response):
            grpc = is_grpc(self.terms.request)
            told = outcome.header("grpc-status") if grpc else None
            status = outcome.status if told is None else http_status_of(told)
            outliers.answered(key, status, clock(), grpc=grpc)
        elif outcome.kind is FailureKind.CONNECT or (outcome.sent and outcome.kind is not FailureKind.OVERFLOW):
            timed_out = outcome.kind is FailureKind.TIMEOUT
            outliers.failed(key, clock(), connected=outcome.sent, timed_out=timed_out)

    def may_retry(self, load: Load) -> bool:
        """Whether the circuit breaker allows one more try; it counts until `settle_retry`."""
        breaker = load.protection.breaker if load.protection is not None else None
        if breaker is None:
            return True
        if breaker.retry():
            self._retrying = breaker
            return True
        return False

    def settle_retry(self) -> None:
        """The try that was one more is over."""
        breaker, self._retrying = self._retrying, None
        if breaker is not None:
            breaker.retries.leave()

    def out_of_time(self, outcome: Response | Failure, left: float | None) -> bool:
        """Whether a failed try used up the route's time. Timers may fire a hair early: the limit that was set decides."""
        if left is None or not isinstance(outcome, Failure):
            return False
        return left <= 0 or (outcome.kind is FailureKind.TIMEOUT and self._limited_by_route)

    def end(self, outcome: Response | Failure, load: Load, verdict: Final, deadline: float | None) -> Deliver:
        """The last try's response for the caller, or its failure raised."""
        exhausted = UpstreamOverflow.flag if verdict is CROWDED else "URX" if verdict.exhausted else ""
        if isinstance(outcome, Response):
            flag = joined_flags(self._delayed, exhausted)
            return Deliver(self._route, self.cluster, load.endpoint, self.attempt, load, deadline, flag)
        load.done()
        raise self.error(_ERRORS[outcome.kind], outcome.detail, exhausted)

    def error(self, kind: type[UpstreamError], detail: str, exhausted: str = "") -> UpstreamError:
        """The exception that ends the request here."""
        return kind(self._sighting(joined_flags(kind.flag, self._delayed, exhausted), detail, self.cluster.name))

    def _sighting(self, flag: str, detail: str, cluster: str) -> Sighting:
        endpoint = "" if self._endpoint is None else str(self._endpoint)
        asked, route = self._request, self._route.name
        authority = self._destination.authority
        return Sighting(authority, route, cluster, endpoint, self.attempt, flag, detail, asked.method, asked.path)


def balancer_for(destination: Destination, cluster: Cluster, balancers: Balancers) -> Balancer:
    """The balancer over the endpoints that the destination's assignment gives a cluster; without one it has none."""
    assignment = destination.assignments.get(cluster.assignment) if cluster.assignment else None
    return balancers.of(cluster, assignment)


def named_endpoint(request: Request) -> Endpoint:
    """The address that a request itself names, for LbPolicy.PASSTHROUGH."""
    host, colon, port = request.authority.rpartition(":")
    if not colon or not port.isdigit():
        host, port = request.authority, "443" if request.scheme == "https" else "80"
    return Endpoint(host.strip("[]"), int(port))


_FLAG_ORDER = ("UH", "UT", "UF", "UC", "UO", "NR", "DI", "FI", "DC", "URX", "DPE", "UPE", "NC")


def joined_flags(*flags: str) -> str:
    """Response flags in Envoy's order, joined by a comma; each argument may be none, one or several."""
    return ",".join(flag for flag in _FLAG_ORDER if flag in ",".join(flags).split(",")) if any(flags) else ""
