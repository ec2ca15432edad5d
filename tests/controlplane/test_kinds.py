"""The structs of the kinds, and the check of plain data against them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib_control.kinds import (
    KINDS,
    DestinationRule,
    PeerAuthentication,
    RequestAuthentication,
    ServiceEntry,
    VirtualService,
    parse_duration,
    schema,
)
from meshlib_control.kinds.base import DurationOrZero, Spec

SPECS = sorted({kind.spec for kind in KINDS.values() if kind.spec}, key=lambda spec: spec.__name__)


def problems(spec: type[Spec], data: Any) -> list[str]:
    return [f"{mistake.field}: {mistake.problem}" for mistake in schema.mistakes(spec, data)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("100ms", 0.1),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("7us", 7e-6),
        ("3ns", 3e-9),
        ("0", 0.0),
        ("-2s", -2.0),
    ],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    """Istio reads them with time.ParseDuration."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5d", "1m 30s", "apple", "5S", "1..5s"])
def test_what_go_does_not_read_is_no_duration(text: str) -> None:
    """A number without a unit is the usual slip."""
    with pytest.raises(ValueError, match=f"^{text}$"):
        parse_duration(text)


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(0, 59), milliseconds=st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    """Every unit counts, in any size."""
    text = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_struct_can_be_checked_and_built(spec: type[Spec]) -> None:
    """Whatever is required is asked for; what has passed the check can be built."""
    needed = {field.encode_name for field in msgspec.structs.fields(spec) if field.required}
    assert {mistake.field for mistake in schema.mistakes(spec, {})} == {f"spec.{name}" for name in needed}
    if not needed:
        assert isinstance(schema.build(spec, {}), spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_specs_are_frozen_and_their_fields_are_described(spec: type[Spec]) -> None:
    """Nobody changes an accepted object; every struct has a docstring of its own."""
    assert spec.__struct_config__.frozen
    assert spec.__doc__


def test_a_virtual_service_becomes_a_struct() -> None:
    """Snake case inside, durations in seconds, lists as tuples."""
    spec = schema.build(
        VirtualService,
        {
            "hosts": ["reviews"],
            "http": [
                {
                    "match": [{"headers": {"end-user": {"exact": "jason"}}, "ignoreUriCase": True}],
                    "route": [{"destination": {"host": "reviews", "subset": "v2", "port": {"number": 9080}}, "weight": 80}],
                    "timeout": "1.5s",
                    "retries": {"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"},
                    "fault": {"abort": {"httpStatus": 500, "percentage": {"value": 100}}},
                }
            ],
        },
    )
    (route,) = spec.http
    assert route.match[0].headers["end-user"].exact == "jason"
    assert route.match[0].ignore_uri_case
    assert route.route[0].destination.port is not None
    assert (route.route[0].destination.port.number, route.route[0].weight) == (9080, 80)
    assert route.timeout == 1.5
    assert route.retries is not None
    assert route.retries.per_try_timeout == 2.0
    assert route.fault is not None
    assert route.fault.abort is not None
    assert route.fault.abort.percentage is not None
    assert route.fault.abort.percentage.value == 100.0


def test_names_that_are_not_camel_case_are_kept() -> None:
    """`from`, `consecutive5xxErrors`, `http1MaxPendingRequests` and the deprecated `mirror_percent`."""
    rule = schema.build(
        DestinationRule,
        {
            "host": "a",
            "trafficPolicy": {
                "outlierDetection": {"consecutive5xxErrors": 7},
                "connectionPool": {"http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 2}},
                "loadBalancer": {"localityLbSetting": {"failover": [{"from": "us", "to": "eu"}]}},
            },
        },
    )
    policy = rule.traffic_policy
    assert policy is not None
    assert policy.outlier_detection is not None
    assert policy.outlier_detection.consecutive_5xx_errors == 7
    assert policy.load_balancer is not None
    assert policy.load_balancer.locality_lb_setting is not None
    assert policy.load_balancer.locality_lb_setting.failover[0].from_ == "us"
    service = schema.build(VirtualService, {"http": [{"mirror_percent": 10}, {"mirrorPercent": 20}]})
    assert [route.mirror_percent_snake for route in service.http] == [10, None]
    assert [route.mirror_percent for route in service.http] == [None, 20]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("timout", "timeout"), ("per_try_timeout", ""), ("Route", "route"), ("retry", "retries"), ("headrs", "headers")],
)
def test_an_unknown_field_is_answered_with_the_likely_one(written: str, meant: str) -> None:
    """A typing error is never ignored."""
    (mistake,) = schema.mistakes(VirtualService, {"http": [{written: {}}]})
    assert mistake.field == f"spec.http[0].{written}"
    assert mistake.problem == f'unknown field "{written}"'
    assert mistake.suggestion == (f"did you mean {meant}?" if meant else mistake.suggestion)
    assert mistake.suggestion


def test_of_two_spellings_the_usual_one_is_proposed() -> None:
    """Istio takes `jwks_uri`, too."""
    (mistake,) = schema.mistakes(RequestAuthentication, {"jwtRules": [{"issuer": "a", "jwksURI": "https://a"}]})
    assert mistake.suggestion == "did you mean jwksUri?"


def test_all_mistakes_are_found_in_the_order_of_the_text() -> None:
    """Not only the first one."""
    data = {"host": 5, "subsets": [{"nam": "v1"}, {"name": "v2", "labels": ["x"]}], "exportTo": "*"}
    assert problems(DestinationRule, data) == [
        'spec.host: Invalid value: "integer": spec.host in body must be of type string: "integer"',
        'spec.subsets[0].nam: unknown field "nam"',
        "spec.subsets[0].name: Required value",
        'spec.subsets[1].labels: Invalid value: "array": spec.subsets[1].labels in body must be of type object: "array"',
        'spec.exportTo: Invalid value: "string": spec.exportTo in body must be of type array: "string"',
    ]


@pytest.mark.parametrize(
    ("value", "advice"),
    [("80", "without quotes: 80"), (True, ""), (1.5, ""), (None, "remove the field"), ([], "")],
)
def test_a_weight_is_a_whole_number(value: Any, advice: str) -> None:
    """Neither text nor a boolean, which Python would take."""
    data = {"http": [{"route": [{"destination": {"host": "a"}, "weight": value}]}]}
    (mistake,) = schema.mistakes(VirtualService, data)
    assert mistake.field == "spec.http[0].route[0].weight"
    assert "must be of type integer" in mistake.problem
    assert advice in mistake.suggestion


@pytest.mark.parametrize(
    ("value", "advice"), [(5, "write the unit: 5s"), ("5", "a number with a unit"), ("0s", ""), ("-1s", ""), ("500us", "")]
)
def test_a_timeout_is_a_duration_of_at_least_a_millisecond(value: Any, advice: str) -> None:
    """Istio's schemas ask for 1ms."""
    (mistake,) = schema.mistakes(VirtualService, {"http": [{"timeout": value}]})
    assert mistake.field == "spec.http[0].timeout"
    assert advice in mistake.suggestion


def test_where_zero_means_something_it_is_allowed() -> None:
    """A cookie with a ttl of 0 lasts for the session; an idle timeout of 0 switches it off."""
    tcp = {"host": "a", "trafficPolicy": {"connectionPool": {"tcp": {"idleTimeout": "0s"}}}}
    assert problems(DestinationRule, tcp) == []
    built = schema.build(DestinationRule, tcp)
    assert built.traffic_policy is not None
    assert built.traffic_policy.connection_pool is not None
    assert built.traffic_policy.connection_pool.tcp is not None
    assert isinstance(built.traffic_policy.connection_pool.tcp.idle_timeout, DurationOrZero)


def test_of_a_oneof_only_one_is_taken() -> None:
    """A string match is exact, prefix or regex."""
    data = {"http": [{"match": [{"uri": {"exact": "/a", "prefix": "/"}}]}]}
    assert problems(VirtualService, data) == ["spec.http[0].match[0].uri.prefix: only one of exact, prefix, regex can be set"]


def test_a_word_that_yaml_takes_for_a_boolean_is_explained() -> None:
    """`exportTo: [no]` arrives as false."""
    (mistake,) = schema.mistakes(VirtualService, {"exportTo": [False]})
    assert "booleans" in mistake.suggestion


def test_null_is_only_for_what_protobuf_wraps() -> None:
    """`allowCredentials: null` is fine, `timeout: null` is not."""
    assert problems(VirtualService, {"http": [{"corsPolicy": {"allowCredentials": None}}]}) == []
    assert len(problems(VirtualService, {"http": [{"timeout": None}]})) == 1
    assert len(problems(VirtualService, {"http": None})) == 1
    assert len(problems(VirtualService, {"http": [None]})) == 1


def test_an_enum_names_what_is_supported() -> None:
    """And the likely one."""
    (mistake,) = schema.mistakes(PeerAuthentication, {"mtls": {"mode": "STRIKT"}})
    assert mistake.problem.startswith('Unsupported value: "STRIKT": supported values: "DISABLE"')
    assert mistake.suggestion == "did you mean STRICT?"


def test_limits_of_lists_maps_and_texts_are_kept() -> None:
    """They are written at the types."""
    assert "spec.hosts in body should have at least 1 items" in problems(ServiceEntry, {"hosts": []})[0]
    many = {"hosts": ["a.b"] * 257}
    assert "at most 256 items" in problems(ServiceEntry, many)[0]
    ports = {"hosts": ["a.b"], "ports": [{"name": "x", "number": 1}, {"name": "x", "number": 2}]}
    assert problems(ServiceEntry, ports) == ['spec.ports[1]: Duplicate value: {"name": "x"}']
    assert "must be of type object" in problems(ServiceEntry, [])[0]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["hosts", "host", "http", "subsets", "ports", "endpoints", "mtls", "selector", "trafficPolicy", "exportTo"]
)


@given(spec=st.sampled_from(SPECS), data=st.dictionaries(FIELDS, ANYTHING, max_size=4) | ANYTHING)
def test_the_check_is_never_surprised_and_never_too_kind(spec: type[Spec], data: Any) -> None:
    """Whatever the data: a list of mistakes, and if it is empty, the struct can be built."""
    if not schema.mistakes(spec, data):
        assert isinstance(schema.build(spec, data), spec)
