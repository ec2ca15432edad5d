from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import Assignment, Cluster, Endpoint, LbPolicy
from meshlib.outbound.balance import Balancer, Balancers
from tests.support.destinations import Dice, endpoints


def balancer(policy: LbPolicy, *weights: int) -> Balancer:
    members = tuple(Endpoint(f"10.0.0.{place}", 80, weight) for place, weight in enumerate(weights))
    return Balancer(Cluster("v1", policy, assignment="v1"), Assignment("v1", members), {})


def shares(chosen: Balancer, draws: int = 6000) -> dict[int, float]:
    dice = Random(7).random
    picked = Counter(endpoint.weight for endpoint in (chosen.pick(dice) for _ in range(draws)) if endpoint)
    return {weight: count / draws for weight, count in picked.items()}


def test_nothing_healthy_nothing_picked() -> None:
    """An empty cluster and one whose endpoints are all unhealthy give None."""
    cluster = Cluster("v1", assignment="v1")
    assert Balancer(cluster, Assignment("v1", ()), {}).take(Dice(0.0)) is None
    assert Balancer(cluster, Assignment("v1", endpoints(2, healthy=False)), {}).pick(Dice(0.0)) is None


def test_unhealthy_endpoints_are_never_picked() -> None:
    """One healthy endpoint among unhealthy ones gets everything."""
    good = Endpoint("10.0.9.9", 80)
    chosen = Balancer(Cluster("v1", assignment="v1"), Assignment("v1", (*endpoints(3, healthy=False), good)), {})
    assert {chosen.pick(Dice(shown)) for shown in (0.0, 0.4, 0.99)} == {good}


def test_least_request_prefers_the_idle_of_two() -> None:
    """Of two drawn endpoints the one with fewer requests in flight is taken; the first one when equal."""
    chosen = balancer(LbPolicy.LEAST_REQUEST, 1, 1)
    first = chosen.take(Dice(0.0, 0.9))
    assert first is not None
    assert first.endpoint.address == "10.0.0.0"
    second = chosen.take(Dice(0.0, 0.9))
    assert second is not None
    assert second.endpoint.address == "10.0.0.1"
    assert "10.0.0.0:80=1" in repr(chosen)


def test_round_robin_takes_turns() -> None:
    """Equal weights: strictly in order, over and over."""
    chosen = balancer(LbPolicy.ROUND_ROBIN, 1, 1, 1)
    turns = [endpoint.address[-1] for endpoint in (chosen.pick(Dice(0.5)) for _ in range(6)) if endpoint]
    assert "".join(turns) == "012012"


@pytest.mark.parametrize("policy", [LbPolicy.LEAST_REQUEST, LbPolicy.ROUND_ROBIN])
def test_unequal_weights_share_accordingly(policy: LbPolicy) -> None:
    """Weights 1:3:6 give a tenth, three tenths and six tenths of idle endpoints' traffic."""
    got = shares(balancer(policy, 1, 3, 6))
    assert got == pytest.approx({1: 0.1, 3: 0.3, 6: 0.6}, abs=0.03)


def test_random_ignores_weights() -> None:
    """RANDOM draws evenly whatever the weights, as Envoy does."""
    assert shares(balancer(LbPolicy.RANDOM, 1, 3, 6)) == pytest.approx({1: 1 / 3, 3: 1 / 3, 6: 1 / 3}, abs=0.03)


def test_tried_hosts_are_avoided() -> None:
    """A host tried before is drawn again only if the re-picks find no other."""
    chosen = balancer(LbPolicy.ROUND_ROBIN, 1, 1)
    tried = frozenset({("10.0.0.0", 80)})
    again = [chosen.pick(Dice(0.0), tried, 5) for _ in range(3)]
    assert {endpoint.address for endpoint in again if endpoint} == {"10.0.0.1"}
    alone = balancer(LbPolicy.ROUND_ROBIN, 1).pick(Dice(0.0), tried, 5)
    assert alone is not None


def test_a_balancer_lives_as_long_as_its_assignment() -> None:
    """The same objects give the same balancer; a new assignment a new one that keeps the counts by address."""
    cluster, before = Cluster("v1", assignment="v1"), Assignment("v1", endpoints(1))
    balancers = Balancers()
    first = balancers.of(cluster, before)
    assert balancers.of(cluster, before) is first
    load = first.take(Dice(0.0))
    assert load is not None
    second = balancers.of(cluster, Assignment("v1", endpoints(2)))
    assert second is not first
    assert second.active(load.endpoint.key) == 1
    load.done()
    load.done()
    assert second.active(load.endpoint.key) == 0
    assert repr(load) == "<Load 10.0.0.1:9080 done>"


def test_counts_survive_an_endpoint_that_comes_back() -> None:
    """An endpoint that left with a request in flight still has it when it returns; idle ones are forgotten."""
    cluster, balancers = Cluster("v1", assignment="v1"), Balancers()
    load = balancers.of(cluster, Assignment("v1", endpoints(1))).take(Dice(0.0))
    assert load is not None
    balancers.of(cluster, Assignment("v1", ()))
    back = balancers.of(cluster, Assignment("v1", endpoints(2)))
    assert back.active(load.endpoint.key) == 1
    balancers.keep(())
    load.done()
    assert balancers.of(cluster, Assignment("v1", endpoints(1))).active(load.endpoint.key) == 0


def test_counts_hold_under_threads() -> None:
    """Eight threads that take and give back leave every count at zero."""
    chosen = balancer(LbPolicy.LEAST_REQUEST, 1, 1, 2)

    def work(seed: int) -> None:
        dice = Random(seed).random
        for _ in range(2000):
            load = chosen.take(dice)
            assert load is not None
            load.done()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert [chosen.active(host.key) for host in chosen.hosts] == [0, 0, 0]


@given(
    policy=st.sampled_from([LbPolicy.LEAST_REQUEST, LbPolicy.ROUND_ROBIN, LbPolicy.RANDOM]),
    weights=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    shown=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_every_number_on_the_dice_picks_a_member(policy: LbPolicy, weights: list[int], shown: list[float]) -> None:
    """No draw falls outside the endpoints, at the edges of the dice neither."""
    chosen, dice = balancer(policy, *weights), Dice(*shown)
    members = {host.endpoint for host in chosen.hosts}
    assert all(chosen.pick(dice) in members for _ in shown)
