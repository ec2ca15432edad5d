from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib_control import names
from meshlib_control.names import ClusterName

DOMAIN = "cluster.local"


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("reviews", "reviews.shop.svc.cluster.local"),
        ("Reviews", "reviews.shop.svc.cluster.local"),
        ("reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local"),
        ("www.google.com", "www.google.com"),
        ("*.google.com", "*.google.com"),
        ("*", "*"),
    ],
)
def test_objects_short_host_means_the_service_of_its_own_namespace(host: str, full: str) -> None:
    """Istio resolves names without a dot only."""
    assert names.resolve(host, "shop", DOMAIN) == full


@pytest.mark.parametrize("host", ["reviews", "reviews.shop", "reviews.shop.svc", "reviews.shop.svc.cluster.local", "REVIEWS."])
def test_every_spelling_a_resolver_takes_means_the_service(host: str) -> None:
    """A caller may write a service as its resolver would complete it."""
    assert names.candidates(host, "shop", DOMAIN)[0] == "reviews.shop.svc.cluster.local"


def test_a_foreign_host_stays_a_candidate_as_written() -> None:
    """google.com has one dot, like reviews.shop: both readings are tried."""
    assert names.candidates("google.com", "shop", DOMAIN) == ("google.com.svc.cluster.local", "google.com")


def test_short_name_belongs_to_callers_of_the_same_namespace_only() -> None:
    """`reviews` means another service in another namespace."""
    full = "reviews.shop.svc.cluster.local"
    assert "reviews" in names.authorities(full, "shop", DOMAIN)
    assert "reviews" not in names.authorities(full, "bank", DOMAIN)
    assert names.authorities("www.google.com", "shop", DOMAIN) == ("www.google.com",)


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("*.foo.com", "a.foo.com", True),
        ("*.foo.com", "a.b.foo.com", True),
        ("*.foo.com", "foo.com", False),
        ("*.foo.com", ".foo.com", False),
        ("*.foo.com", "*.a.foo.com", True),
        ("*.a.foo.com", "*.foo.com", False),
        ("*.foo.com", "*.foo.com", True),
        ("*", "anything", True),
        ("*", "*.foo.com", True),
        ("a.foo.com", "a.foo.com", True),
        ("a.foo.com", "*.foo.com", False),
    ],
)
def test_pattern_covers_host(pattern: str, host: str, expected: bool) -> None:
    """Istio: host.Name.SubsetOf."""
    assert names.covers(pattern, host) is expected


def test_most_specific_pattern_wins() -> None:
    """An exact name beats wildcards, a longer wildcard a shorter one."""
    patterns = ["*", "*.foo.com", "*.a.foo.com", "x.a.foo.com"]
    assert names.most_specific("x.a.foo.com", patterns) == "x.a.foo.com"
    assert names.most_specific("y.a.foo.com", patterns) == "*.a.foo.com"
    assert names.most_specific("bar.com", patterns) == "*"
    assert names.most_specific("bar.com", ["*.foo.com"]) is None


@given(
    st.text("*.ab", min_size=1, max_size=8), st.sets(st.sampled_from(["*", "*.a", "*.b", "*.a.b", "*.b.a", "a.b", "b", "a"]))
)
def test_looking_patterns_up_finds_the_same_as_going_through_them(host: str, patterns: set[str]) -> None:
    """For every host that can be written."""
    if "*" not in host[1:]:
        assert names.most_specific_known(host, patterns) == names.most_specific(host, patterns)


def test_cluster_name_round_trip() -> None:
    """Names are Istio's, and can be read back."""
    name = ClusterName(9080, "v2", "reviews.default.svc.cluster.local")
    assert str(name) == "outbound|9080|v2|reviews.default.svc.cluster.local"
    assert names.parse_cluster_name(str(name)) == name
    assert name.sni == "outbound_.9080_.v2_.reviews.default.svc.cluster.local"


@pytest.mark.parametrize(
    "name", ["", "outbound", "outbound|x||h", "outbound|80|h", "inbound|80||", "outbound|0||h", "outbound|70000||h"]
)
def test_other_names_are_no_clusters(name: str) -> None:
    """Garbage in a subscription is not an error: the resource does not exist."""
    assert names.parse_cluster_name(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews:9080", ("reviews", 9080)),
        ("[::1]:9080", ("::1", 9080)),
        ("reviews", None),
        ("reviews:", None),
        (":80", None),
        ("a:b", None),
        ("a:٣", None),
        ("a:99999", None),
    ],
)
def test_host_and_port(name: str, expected: tuple[str, int] | None) -> None:
    """A listener is asked for by host and port."""
    assert names.parse_host_port(name) == expected


def test_inbound_listener_name_round_trip() -> None:
    """Also for IPv6."""
    for address in ("127.0.0.1", "::1"):
        assert names.parse_inbound_name(names.inbound_name(address, 9080)) == (address, 9080)
    assert names.parse_inbound_name("reviews:9080") is None
