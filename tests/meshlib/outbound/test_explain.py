import random

from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import Delay, Fault, HeaderMatch, LbPolicy, QueryMatch, StringMatch
from meshlib.outbound.balance import Balancers
from meshlib.outbound.explain import Candidate, describe, explain
from meshlib.outbound.route import choose
from tests.support.destinations import (
    ORIGIN,
    PRESENT,
    Dice,
    destination,
    endpoints,
    exact,
    match,
    prefix,
    regex,
    request,
    retries,
    route,
)

JASON = route("jason", "v2", when=match(headers=[HeaderMatch("end-user", exact("jason"))]))


def test_each_route_says_why_not() -> None:
    """Routes in order up to the one that decides, each with the condition that failed and who wrote it."""
    told = explain(destination(JASON, route("rest"), route("never")), request(end_user="bob"))
    assert [(one.route, one.reason, one.matched) for one in told.considered] == [
        ("jason", "header end-user must be exactly 'jason', it is 'bob'", False),
        ("rest", "", True),
    ]
    assert told.route == "rest"
    assert told.origin == told.considered[0].origin == ORIGIN
    assert str(told.origin) == "VirtualService default/reviews spec.http[0] (virtual-service-reviews.yaml:12)"


def test_shares_and_endpoints() -> None:
    """Percent per cluster, its endpoints with health and load, and what would fail."""
    to = destination(route(to={"v1": 80, "v3": 20, "v9": 0}), clusters={"v1": endpoints(1), "v3": endpoints(1, healthy=False)})
    balancers = Balancers()
    load = balancers.of(to.clusters["v1"], to.assignments["v1"]).take(Dice(0.0))
    v1, v3, v9 = explain(to, request(), balancers).targets
    assert load is not None
    assert (v1.percent, v1.policy, v1.problem) == (80.0, "LEAST_REQUEST", "")
    assert v1.candidates == (Candidate("10.0.0.1:9080", True, False, 1, ""),)
    assert (v3.percent, v3.problem, v3.candidates[0].healthy) == (20.0, "UH: no healthy endpoint", False)
    assert v9.problem.startswith("NC: the cluster does not exist")


def test_limits_in_force_for_this_request() -> None:
    """Timeouts and retries as the request's own headers change them; the fault as it stands."""
    fault = Fault(Delay(0.5, 7.0))
    told = explain(
        destination(route(timeout=3.0, retry=retries(), fault=fault)), request(x_envoy_upstream_rq_timeout_ms="500")
    )
    assert (told.timeout, told.per_try_timeout, told.fault) == (0.5, None, fault)
    assert told.retry == retries()


def test_nothing_fits() -> None:
    """No domain: neither host nor route; no route: the host and every reason."""
    assert explain(destination(domains=("ratings",)), request()).virtual_host == ""
    told = explain(destination(JASON), request())
    assert (told.virtual_host, told.domain, told.route) == ("reviews", "*", None)
    assert [one.reason for one in told.considered] == ["header end-user must be exactly 'jason', it is absent"]


def test_the_domain_that_fits_best() -> None:
    """Of several domains the one that decides is named."""
    assert explain(destination(domains=("*", "reviews:9080", "reviews*")), request()).domain == "reviews:9080"


def test_passthrough_names_the_address() -> None:
    """A pass-through cluster's endpoint is what the request names."""
    told = explain(destination(policy=LbPolicy.PASSTHROUGH), request(authority="example.org"))
    assert told.targets[0].candidates[0].address == "example.org:80"


def test_conditions_in_words() -> None:
    """Path, query and inverted header conditions can be read."""
    asked = request("/reviews/0?v=1", end_user="jason")
    assert describe(StringMatch(prefix("/x").kind, "/x", ignore_case=True), asked) == (
        "path must be of prefix '/x' (any case), it is '/reviews/0'"
    )
    assert describe(QueryMatch("v", regex("2.*")), asked) == "query parameter v must be a match of regex '2.*', it is '1'"
    assert (
        describe(HeaderMatch("end-user", PRESENT, invert=True), asked) == "header end-user must not be present, it is 'jason'"
    )


@given(user=st.sampled_from(["jason", "bob"]), path=st.sampled_from(["/reviews/0", "/other", "/x"]), seed=st.integers(0, 9))
def test_it_tells_what_is_decided(user: str, path: str, seed: int) -> None:
    """The route explained is the route chosen, and the cluster drawn is one of the targets."""
    to = destination(
        JASON, route("x", {"v1": 1, "v3": 1}, when=match(exact("/x"))), route("reviews", when=match(prefix("/rev")))
    )
    asked = request(path, end_user=user)
    told, chosen = explain(to, asked), choose(to.routes, asked, random.Random(seed).random)
    assert told.route == (chosen.route.name if chosen else None)
    assert chosen is None or chosen.cluster_name in {target.cluster for target in told.targets}
