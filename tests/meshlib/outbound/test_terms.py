import pytest

from meshlib.config.model import Route
from meshlib.facts import Request
from meshlib.outbound.terms import CONSUMED, Terms, terms_of
from tests.support.destinations import request, retries, route


def agreed(rule: Route, **headers: str) -> Terms:
    return terms_of(rule, request(**headers))


def test_without_orders_the_route_decides() -> None:
    """No x-envoy header: the route's values, and the very same request."""
    rule, asked = route(timeout=3.0, retry=retries(per_try_timeout=1.0)), request(x_envoy_other="1")
    assert terms_of(rule, asked) == Terms(asked, 3.0, 1.0, rule.retry)
    assert terms_of(rule, asked).request is asked


@pytest.mark.parametrize(("given", "expected"), [("500", 0.5), ("0", None), ("soon", 3.0), ("-1", 3.0), ("²", 3.0)])
def test_the_request_may_set_the_timeout(given: str, expected: float | None) -> None:
    """Milliseconds; zero turns it off; what is no number is ignored."""
    assert agreed(route(timeout=3.0), x_envoy_upstream_rq_timeout_ms=given).timeout == expected


def test_a_try_that_may_last_longer_than_the_whole_is_not_limited() -> None:
    """Envoy drops a per-try timeout that is not shorter than the route's."""
    assert agreed(route(timeout=1.0, retry=retries(per_try_timeout=1.0))).per_try is None
    assert agreed(route(retry=retries(per_try_timeout=1.0))).per_try == 1.0
    assert agreed(route(timeout=1.0), x_envoy_upstream_rq_per_try_timeout_ms="200").per_try == 0.2


def test_the_request_may_ask_for_retries() -> None:
    """Words are added to the route's; without a policy one retry, tried hosts not avoided, as Envoy's own default."""
    asked = agreed(route(), x_envoy_retry_on="5xx, bogus", x_envoy_retry_grpc_on="internal,5xx").retry
    assert asked is not None
    assert asked.retry_on == {"5xx", "internal"}
    assert (asked.retries, asked.avoid_previous_hosts) == (1, False)
    added = agreed(route(retry=retries("reset", count=2)), x_envoy_retry_on="5xx", x_envoy_max_retries="7").retry
    assert added is not None
    assert (set(added.retry_on), added.retries) == ({"5xx", "reset"}, 7)


def test_a_number_alone_asks_for_nothing() -> None:
    """x-envoy-max-retries without conditions starts no retries."""
    assert agreed(route(), x_envoy_max_retries="5").retry is None
    assert agreed(route(), x_envoy_retry_on="bogus").retry is None


def test_the_request_may_name_codes_and_headers() -> None:
    """Status codes and header names are added to the route's."""
    asked = agreed(route(retry=retries()), x_envoy_retriable_status_codes="503, x", x_envoy_retriable_header_names="X-Again")
    assert asked.retry is not None
    assert asked.retry.status_codes == {503}
    assert [condition.name for condition in asked.retry.retriable_headers] == ["x-again"]


def test_orders_do_not_reach_the_upstream() -> None:
    """Consumed headers are taken out, all others stay in order."""
    headers = (("a", "1"), *((name, "1") for name in sorted(CONSUMED)), ("x-envoy-decorator-operation", "x"))
    sent = terms_of(route(), Request("GET", "http", "reviews", "/", headers)).request
    assert sent.headers == (("a", "1"), ("x-envoy-decorator-operation", "x"))
