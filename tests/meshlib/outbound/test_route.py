from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import HeaderMatch, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.outbound.route import choose, domain_rank, share, virtual_host
from tests.support.destinations import Dice, exact, match, prefix, request, route


def best(authority: str, *domains: str) -> str | None:
    hosts = tuple(VirtualHost(domain, (domain,), ()) for domain in domains)
    found = virtual_host(RouteConfiguration("test", hosts), authority)
    return found.name if found else None


def test_domains_rank_exact_suffix_prefix_any() -> None:
    """Exact beats the longest suffix, that beats the longest prefix, that beats the star."""
    domains = ["*", "a.*", "a.b.*", "*.com", "*.b.com", "a.b.com"]
    for expected in reversed(domains):
        assert best("a.b.com", *domains) == expected
        domains.remove(expected)
        if expected == "*.b.com":
            assert best("a.b.com", *domains) == "*.com"


def test_a_star_stands_for_something() -> None:
    """`*.com` does not match `.com`, `a.*` does not match `a.`: at least one character is needed."""
    assert best(".com", "*.com") is None
    assert best("a.", "a.*") is None
    assert best("x.com", "*.com") == "*.com"


def test_the_authority_is_compared_in_lower_case() -> None:
    """Host names have no case."""
    assert best("Reviews:9080", "reviews:9080", "*") == "reviews:9080"


def test_no_domain_no_route() -> None:
    """Where no domain fits nothing is chosen, even with routes that would match."""
    hosts = (VirtualHost("one", ("ratings",), (route(),)),)
    assert choose(RouteConfiguration("test", hosts), request(), Dice(0.0)) is None


def test_the_first_matching_route_decides() -> None:
    """Routes are tried in order; a later and better match does not count."""
    jason = route("jason", "v2", when=match(headers=[HeaderMatch("end-user", exact("jason"))]))
    rest, never = route("rest", "v1"), route("never", "v3", when=match(exact("/reviews/0")))
    routes = RouteConfiguration("test", (VirtualHost("reviews", ("*",), (jason, rest, never)),))
    for user, expected in (("jason", jason), ("bob", rest)):
        chosen = choose(routes, request(end_user=user), Dice(0.0))
        assert chosen is not None
        assert chosen.route is expected


def test_no_other_virtual_host_is_looked_at() -> None:
    """When the best virtual host has no matching route, the next best one is not asked (Envoy)."""
    hosts = (
        VirtualHost("exact", ("reviews:9080",), (route(when=match(prefix("/other"))),)),
        VirtualHost("any", ("*",), (route(),)),
    )
    assert choose(RouteConfiguration("test", hosts), request(), Dice(0.0)) is None


def test_one_cluster_costs_no_draw() -> None:
    """A single cluster gets everything and the dice stay where they are."""
    dice = Dice(0.5)
    assert share((WeightedCluster("v1", 7),), dice) == "v1"
    assert dice.thrown == 0


def test_shares_have_exact_edges() -> None:
    """80:20: everything below 0.8 goes to the first, from 0.8 on to the second."""
    clusters = (WeightedCluster("v1", 80), WeightedCluster("v3", 20))
    assert [share(clusters, Dice(shown)) for shown in (0.0, 0.7999, 0.8, 0.9999999999999999)] == ["v1", "v1", "v3", "v3"]


@given(weights=st.lists(st.integers(0, 1000), min_size=2, max_size=5).filter(any), shown=st.floats(0, 1, exclude_max=True))
def test_a_weight_of_zero_is_never_drawn(weights: list[int], shown: float) -> None:
    """Whatever the dice show, a cluster with a weight above zero is drawn."""
    clusters = tuple(WeightedCluster(str(place), weight) for place, weight in enumerate(weights))
    assert weights[int(share(clusters, Dice(shown)))] > 0


@given(weights=st.lists(st.integers(0, 10), min_size=2, max_size=4).filter(any), seed=st.integers(0, 9))
def test_shares_follow_the_weights(weights: list[int], seed: int) -> None:
    """Over 4000 draws each share is within five points of weight / sum."""
    clusters = tuple(WeightedCluster(str(place), weight) for place, weight in enumerate(weights))
    drawn = Counter(share(clusters, Random(seed).random) for seed in range(seed * 4000, seed * 4000 + 4000))
    for place, weight in enumerate(weights):
        assert abs(drawn[str(place)] / 4000 - weight / sum(weights)) < 0.05


HOST = st.text("ab.", min_size=1, max_size=5)


@given(domain=st.one_of(HOST, HOST.map(lambda text: "*" + text), HOST.map(lambda text: text + "*"), st.just("*")), host=HOST)
def test_a_domain_fits_as_a_glob_does(domain: str, host: str) -> None:
    """A rank above zero means: the star replaced by one or more characters gives the host."""
    head, star, tail = domain.partition("*")
    fits = host == domain if not star else len(host) > len(head + tail) and host.startswith(head) and host.endswith(tail)
    assert (domain_rank(domain, host) > (0, 0)) == fits
