import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import Abort, Cluster, Delay, Endpoint, Fault, LbPolicy, WeightedCluster
from meshlib.config.protection import CircuitBreakers, OutlierDetection
from meshlib.config.snapshot import Destination
from meshlib.errors import (
    ConnectFailure,
    ConnectionTerminated,
    NoCluster,
    NoHealthyUpstream,
    ProtocolFailure,
    UpstreamError,
    UpstreamOverflow,
    UpstreamTimeout,
)
from meshlib.facts import Failure, FailureKind, Request, Response
from meshlib.outbound.balance import Balancers
from meshlib.outbound.exchange import OVERFLOW, Deliver, Exchange, LocalReply, Pause, Send, exchange, named_endpoint
from tests.support.destinations import Clock, Dice, destination, endpoints, exact, match, request, retries, route

OK = Response(200)
REFUSED = Failure(FailureKind.CONNECT, "connection refused", sent=False)
RESET = Failure(FailureKind.RESET, "connection reset by peer")
TIMEOUT = Failure(FailureKind.TIMEOUT, "no answer in time")

Upstream = Callable[[Send], tuple[float, Response | Failure]]


@dataclass
class Driver:
    """Carries an exchange out on a clock of its own. `upstream` answers a Send with seconds taken and the outcome."""

    upstream: Upstream
    clock: Clock = field(default_factory=Clock)
    balancers: Balancers = field(default_factory=Balancers)
    dice: Callable[[], float] = field(default_factory=lambda: Dice(0.5))
    sent: list[Send] = field(default_factory=list)
    paused: list[Pause] = field(default_factory=list)

    def run(self, to: Destination, asked: Request | None = None, *, replayable: bool = True) -> Deliver | LocalReply:
        steps = exchange(to, asked or request(), self.balancers, self.clock, self.dice, replayable=replayable)
        answer: Response | Failure | None = None
        while True:
            try:
                answer = self._carry_out(steps.send(answer))
            except StopIteration as end:
                result: Deliver | LocalReply = end.value
                return result

    def _carry_out(self, step: Pause | Send) -> Response | Failure | None:
        if isinstance(step, Pause):
            self.paused.append(step)
            self.clock.sleep(step.seconds)
            return None
        self.sent.append(step)
        took, outcome = self.upstream(step)
        if step.timeout is not None and took >= step.timeout:
            took, outcome = step.timeout, TIMEOUT
        self.clock.sleep(took)
        return outcome

    def in_flight(self, to: Destination) -> int:
        balancers = [self.balancers.of(to.clusters[name], to.assignments[name]) for name in to.clusters]
        return sum(one.active(endpoint.key) for one in balancers for endpoint in one.endpoints)


def answers(*outcomes: Response | Failure, took: float = 0.01) -> Upstream:
    queue = list(outcomes)
    return lambda send: (took, queue.pop(0) if len(queue) > 1 else queue[0])


def test_the_plain_way() -> None:
    """One try, the response is delivered, its load is the caller's until done."""
    driver, to = Driver(answers(OK)), destination()
    result = driver.run(to)
    assert isinstance(result, Deliver)
    assert (result.attempts, result.deadline, result.flag) == (1, None, "")
    [send] = driver.sent
    assert (send.attempt, send.timeout, send.headers) == (1, None, (("x-envoy-attempt-count", "1"),))
    assert driver.in_flight(to) == 1
    result.load.done()
    assert driver.in_flight(to) == 0


def test_no_route_is_a_404() -> None:
    """What no route matches is answered here: 404 NR."""
    result = Driver(answers(OK)).run(destination(route(when=match(exact("/other")))))
    assert isinstance(result, LocalReply)
    assert (result.status, result.flag, result.detail, result.route) == (404, "NR", "route_not_found", None)


def test_a_missing_cluster_is_an_error_that_names_it() -> None:
    """A subset that does not exist: NC, with route and cluster in the sighting."""
    with pytest.raises(NoCluster) as caught:
        Driver(answers(OK)).run(destination(route("jason", "v9")))
    assert (caught.value.sighting.cluster, caught.value.sighting.route, caught.value.sighting.flag) == ("v9", "jason", "NC")


def test_no_endpoint_is_an_error() -> None:
    """No healthy endpoint: UH, nothing was sent."""
    driver = Driver(answers(OK))
    with pytest.raises(NoHealthyUpstream) as caught:
        driver.run(destination(clusters={"v1": endpoints(2, healthy=False)}))
    assert (caught.value.sighting.flag, caught.value.sighting.attempt, driver.sent) == ("UH", 0, [])


def test_a_cluster_without_assignment_uses_its_own_endpoints() -> None:
    """ServiceEntry with DNS: the endpoints stand in the cluster."""
    to = destination()
    own = Cluster("v1", endpoints=(Endpoint("httpbin.org", 80),))
    driver = Driver(answers(OK))
    driver.run(Destination(to.authority, to.routes, {"v1": own}, {}))
    assert driver.sent[0].endpoint.address == "httpbin.org"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FailureKind.CONNECT, ConnectFailure),
        (FailureKind.RESET, ConnectionTerminated),
        (FailureKind.PROTOCOL, ProtocolFailure),
        (FailureKind.TIMEOUT, UpstreamTimeout),
    ],
)
def test_a_failed_try_is_an_error_of_its_kind(kind: FailureKind, error: type[UpstreamError]) -> None:
    """Without retries the failure is raised with endpoint, attempt and the words of the system; no load stays."""
    driver, to = Driver(answers(Failure(kind, "words"))), destination()
    with pytest.raises(error) as caught:
        driver.run(to)
    assert (caught.value.sighting.flag, caught.value.sighting.detail) == (kind.value, "words")
    assert caught.value.sighting.endpoint == str(driver.sent[0].endpoint)
    assert driver.in_flight(to) == 0


def test_a_retry_goes_to_another_host() -> None:
    """After a refused connection the next try waits a back-off and avoids the host."""
    driver, to = Driver(answers(REFUSED, OK), dice=Random(1).random), destination(route(retry=retries()))
    result = driver.run(to)
    assert isinstance(result, Deliver)
    assert result.attempts == 2
    first, second = driver.sent
    assert first.endpoint != second.endpoint
    assert ("x-envoy-attempt-count", "2") in second.headers
    assert 0 <= driver.paused[0].seconds <= 0.025
    assert driver.paused[0].why == "retry 1: connect-failure"
    assert driver.in_flight(to) == 1


def test_used_up_retries_show() -> None:
    """The last try's response is delivered with URX, its failure raised with URX."""
    to = destination(route(retry=retries("5xx", count=1)))
    result = Driver(answers(Response(503))).run(to)
    assert isinstance(result, Deliver)
    assert (result.attempts, result.flag) == (2, "URX")
    with pytest.raises(ConnectFailure) as caught:
        Driver(answers(REFUSED)).run(to)
    assert (caught.value.sighting.flag, caught.value.sighting.attempt) == ("UF,URX", 2)


def test_what_cannot_be_sent_again_is_not() -> None:
    """A streamed body: a retriable answer is delivered as it is."""
    driver = Driver(answers(Response(503), OK))
    result = driver.run(destination(route(retry=retries("5xx"))), replayable=False)
    assert isinstance(result, Deliver)
    assert (len(driver.sent), result.flag) == (1, "")


def test_the_routes_timeout_is_final() -> None:
    """When the whole time is over no try follows, though retry_on would cover it: UT."""
    driver, to = Driver(answers(OK, took=9)), destination(route(timeout=3.0, retry=retries("5xx")))
    with pytest.raises(UpstreamTimeout) as caught:
        driver.run(to)
    assert (len(driver.sent), driver.clock.now, caught.value.sighting.flag) == (1, 1003.0, "UT")
    assert driver.in_flight(to) == 0


def test_a_timer_that_fires_early_is_still_the_routes() -> None:
    """A time-out at the route's limit is final even if the clock shows a hair of time left."""
    to = destination(route(timeout=3.0, retry=retries("5xx", per_try_timeout=2.9)))
    driver = Driver(lambda send: (send.timeout - 0.001 if send.timeout else 0.0, TIMEOUT), dice=Dice(0.0))
    with pytest.raises(UpstreamTimeout):
        driver.run(to)
    assert [send.timeout for send in driver.sent] == [2.9, pytest.approx(0.101)]


def test_a_tries_timeout_is_retried_if_covered() -> None:
    """A per-try timeout counts as a reset: 5xx covers it, connect-failure does not."""
    slow_then_fast = iter([(9.0, OK), (0.1, OK)])
    covered = Driver(lambda send: next(slow_then_fast))
    result = covered.run(destination(route(timeout=3.0, retry=retries("5xx", per_try_timeout=1.0))))
    assert isinstance(result, Deliver)
    assert (result.attempts, result.deadline) == (2, 1003.0)
    with pytest.raises(UpstreamTimeout) as caught:
        Driver(answers(OK, took=9)).run(destination(route(timeout=3.0, retry=retries(per_try_timeout=1.0))))
    assert caught.value.sighting.attempt == 1


def test_the_back_off_ends_at_the_routes_timeout() -> None:
    """A wait longer than what is left ends with the route's timeout, as Envoy's timer does."""
    driver = Driver(answers(RESET, took=0.9), dice=Dice(0.99))
    to = destination(route(timeout=1.0, retry=retries("reset", backoff_base=5.0, backoff_max=50.0)))
    with pytest.raises(UpstreamTimeout, match="waiting for the next try"):
        driver.run(to)
    assert driver.clock.now == pytest.approx(1001.0)


def test_the_upstream_learns_how_long_we_wait() -> None:
    """x-envoy-expected-rq-timeout-ms is the try's time, cut to what is left of the route's; never 0."""
    driver = Driver(answers(Response(503), took=0.9), dice=Dice(0.0))
    with pytest.raises(UpstreamTimeout):
        driver.run(destination(route(timeout=2.0, retry=retries("5xx", per_try_timeout=1.5))))
    expected = [dict(send.headers)["x-envoy-expected-rq-timeout-ms"] for send in driver.sent]
    assert expected == ["1500", "1100", "200"]


def test_orders_to_the_mesh_are_obeyed_and_not_sent() -> None:
    """x-envoy-retry-on starts a retry and does not travel."""
    driver = Driver(answers(Response(503), OK))
    driver.run(destination(), request(x_envoy_retry_on="5xx", a="1"))
    assert [send.request.headers for send in driver.sent] == [(("a", "1"),)] * 2


def test_a_delay_comes_first_and_is_not_counted() -> None:
    """The fault's delay is before the route's timeout starts; the delivered response shows DI."""
    driver = Driver(answers(OK))
    result = driver.run(destination(route(timeout=3.0, fault=Fault(Delay(1.0, 7.0)))))
    assert isinstance(result, Deliver)
    assert (result.flag, result.deadline) == ("DI", 1000.0 + 7.0 + 3.0)
    assert driver.paused == [Pause(7.0, "fault delay")]


def test_an_abort_is_final() -> None:
    """An injected answer is neither sent nor retried; after a delay both flags show."""
    fault = Fault(Delay(1.0, 2.0), Abort(1.0, 500))
    driver = Driver(answers(OK))
    result = driver.run(destination(route("r", fault=fault, retry=retries("5xx"))))
    assert isinstance(result, LocalReply)
    assert (result.status, result.body, result.flag) == (500, b"fault filter abort", "DI,FI")
    assert (result.detail, result.route is not None, driver.sent) == ("fault_filter_abort", True, [])


def test_passthrough_goes_where_the_request_says() -> None:
    """PASSTHROUGH sends to the authority's own address, counted like any other."""
    driver, to = Driver(answers(OK)), destination(policy=LbPolicy.PASSTHROUGH)
    driver.run(to, request(authority="example.org:8080"))
    assert driver.sent[0].endpoint.key == ("example.org", 8080)
    assert named_endpoint(request(authority="[::1]:81")).key == ("::1", 81)
    assert named_endpoint(request(authority="example.org")).port == 80


def started(to: Destination, balancers: Balancers) -> Exchange:
    steps = exchange(to, request(), balancers, Clock(), Dice(0.0))
    assert isinstance(next(steps), Send)
    return steps


@pytest.mark.parametrize("give_up", [lambda steps: steps.close(), lambda steps: steps.throw(KeyboardInterrupt)])
def test_giving_up_releases_the_load(give_up: Callable[[Exchange], object]) -> None:
    """A driver that is cancelled while sending leaves no request in flight."""
    to, driver = destination(), Driver(answers(OK))
    steps = started(to, driver.balancers)
    assert driver.in_flight(to) == 1
    with contextlib.suppress(KeyboardInterrupt):
        give_up(steps)
    assert driver.in_flight(to) == 0


OUTCOMES = st.one_of(
    st.sampled_from([200, 404, 409, 500, 503]).map(Response),
    st.sampled_from(FailureKind).map(lambda kind: Failure(kind, "made up")),
)


@given(
    timeout=st.one_of(st.none(), st.floats(0.1, 5)),
    per_try=st.one_of(st.none(), st.floats(0.05, 5)),
    count=st.integers(1, 5),
    words=st.lists(st.sampled_from(["5xx", "reset", "connect-failure", "retriable-4xx"]), min_size=1),
    outcomes=st.lists(st.tuples(st.floats(0, 3), OUTCOMES), min_size=1, max_size=8),
    delay=st.one_of(st.none(), st.floats(0.1, 3)),
    hosts=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_whatever_happens(
    timeout: float | None,
    per_try: float | None,
    count: int,
    words: list[str],
    outcomes: list[tuple[float, Response | Failure]],
    delay: float | None,
    hosts: int,
    seed: int,
) -> None:
    """Never longer than the route's timeout, never more tries than allowed, and no load is left behind."""
    policy = retries(*words, count=count, per_try_timeout=per_try)
    fault = Fault(Delay(1.0, delay)) if delay is not None else None
    to = destination(
        route(to={"v1": 1, "v2": 2}, timeout=timeout, retry=policy, fault=fault),
        clusters={"v1": endpoints(hosts), "v2": endpoints(hosts)},
    )
    turns = iter(outcomes * 10)
    driver = Driver(lambda send: next(turns), dice=Random(seed).random)
    with contextlib.suppress(UpstreamError):
        result = driver.run(to)
        assert isinstance(result, Deliver)
        assert result.attempts == len(driver.sent)
        assert driver.in_flight(to) == 1
        result.load.done()
    assert driver.in_flight(to) == 0
    assert len(driver.sent) <= count + 1
    assert len({send.cluster.name for send in driver.sent}) <= 1
    if timeout is not None:
        assert driver.clock.now - 1000.0 <= (delay or 0.0) + timeout + 1e-6


def test_one_cluster_for_all_tries() -> None:
    """Weights are drawn once: retries stay in the cluster that was drawn."""
    to = destination(
        route(to={"v1": 1, "v2": 1}, retry=retries("5xx", count=5)), clusters={"v1": endpoints(1), "v2": endpoints(1)}
    )
    assert isinstance(to.routes.virtual_hosts[0].routes[0].clusters[0], WeightedCluster)
    driver = Driver(answers(Response(503)), dice=Random(3).random)
    driver.run(to)
    assert len(driver.sent) == 6
    assert len({send.cluster.name for send in driver.sent}) == 1


def guarded(**changes: Any) -> Destination:
    """A destination whose cluster has circuit breakers, outlier detection or both."""
    found = destination()
    return replace(found, clusters={name: replace(one, **changes) for name, one in found.clusters.items()})


EVERYBODY = OutlierDetection(consecutive_5xx=1, interval=1.0, base_ejection_time=5.0, max_ejection_percent=100)


def test_who_fails_is_left_out_and_comes_back() -> None:
    """Until its time is over, on the caller's clock."""
    driver, to = Driver(answers(Response(500))), guarded(outlier_detection=EVERYBODY)
    (cluster,) = to.clusters.values()
    for _ in to.assignments[cluster.name].endpoints:
        driver.run(to)
    with pytest.raises(NoHealthyUpstream):
        driver.run(to)
    driver.clock.sleep(7.0)
    driver.upstream = answers(OK)
    assert isinstance(driver.run(to), Deliver)


def test_below_the_panic_threshold_everybody_is_asked() -> None:
    """Nobody is healthy, so nobody is believed to be ill."""
    driver, to = Driver(answers(Response(500))), guarded(outlier_detection=EVERYBODY, panic_threshold=50.0)
    for _ in range(9):
        assert isinstance(driver.run(to), Deliver)


@pytest.mark.parametrize(("failure", "counts"), [(REFUSED, True), (RESET, True), (OVERFLOW, False)])
def test_what_counts_against_an_endpoint(failure: Failure, counts: bool) -> None:
    """What the network did, and not what a circuit breaker refused."""
    driver, to = Driver(answers(failure)), guarded(outlier_detection=EVERYBODY)
    with pytest.raises(UpstreamError):
        driver.run(to)
    (protection,) = driver.balancers.protections.values()
    assert protection.outliers is not None
    assert len(protection.outliers.ejected) == counts


def test_a_caller_that_speaks_grpc_is_refused_before_a_connection() -> None:
    """Requests that share connections are counted here; they count until their responses end."""
    to, balancers = guarded(circuit_breakers=CircuitBreakers(max_requests=1)), Balancers()
    first = exchange(to, request(), balancers, Clock(), Dice(0.5), multiplexed=True)
    assert isinstance(next(first), Send)
    second = exchange(to, request(), balancers, Clock(), Dice(0.5), multiplexed=True)
    with pytest.raises(UpstreamOverflow) as told:
        next(second)
    assert (told.value.flag, told.value.status, told.value.sighting.detail) == ("UO", 503, "overflow")
    first.close()
    third = exchange(to, request(), balancers, Clock(), Dice(0.5), multiplexed=True)
    assert isinstance(next(third), Send)


def test_too_many_retries() -> None:
    """The outcome stands, and the flag says why nothing followed; a retry counts until its outcome is known."""
    policy = retries("5xx", count=2)
    to = destination(route(retry=policy))
    limits = CircuitBreakers(max_retries=1)
    to = replace(to, clusters={name: replace(one, circuit_breakers=limits) for name, one in to.clusters.items()})
    balancers, fails = Balancers(), Response(503)
    waiting = exchange(to, request(), balancers, Clock(), Dice(0.5))
    next(waiting)
    assert isinstance(waiting.send(fails), Pause)
    driver = Driver(answers(fails), balancers=balancers)
    refused = driver.run(to)
    assert isinstance(refused, Deliver)
    assert (refused.attempts, refused.flag) == (1, "UO")
    waiting.close()
    again = driver.run(to)
    assert isinstance(again, Deliver)
    assert (again.attempts, again.flag) == (3, "URX")
