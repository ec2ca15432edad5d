import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.config.model import HeaderMatch, MatchKind, QueryMatch, RouteMatch, StringMatch
from meshlib.facts import Request
from meshlib.match import bare_path, header_matches, query_matches, query_parameters, text_matches
from meshlib.outbound.match import Condition, unmet
from tests.support.destinations import PRESENT, exact, match, prefix, regex, request


def failed(rule: RouteMatch, asked: Request) -> Condition | None:
    return unmet(rule, asked, bare_path(asked.path))


def meets(path: StringMatch, text: str) -> bool:
    return failed(match(path), request(text)) is None


def test_the_query_is_no_part_of_the_path() -> None:
    """Exact and regex matches see the path without query and fragment."""
    assert meets(exact("/reviews"), "/reviews?x=1")
    assert meets(regex("/rev.*s"), "/reviews?x=1#end")
    assert not meets(exact("/reviews?x=1"), "/reviews?x=1")
    assert bare_path("*") == "*"


def test_a_prefix_is_raw() -> None:
    """`/foo` matches `/foobar`, as in Istio: prefixes know no segments."""
    assert meets(prefix("/foo"), "/foobar")
    assert not meets(prefix("/foo/"), "/foo")


def test_a_regex_matches_the_whole() -> None:
    """A regular expression that matches a part only does not match."""
    assert meets(regex("/reviews/[0-9]+"), "/reviews/12")
    assert not meets(regex("/reviews"), "/reviews/12")
    assert not meets(regex("reviews"), "/reviews")


def test_case_may_be_ignored() -> None:
    """With ignore_case the text is compared in lower case; without it case counts."""
    assert meets(StringMatch(MatchKind.PREFIX, "/reviews", ignore_case=True), "/REViews/0")
    assert not meets(prefix("/reviews"), "/REViews/0")


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        (HeaderMatch("end-user", exact("jason")), "jason", True),
        (HeaderMatch("end-user", exact("jason")), "jasonx", False),
        (HeaderMatch("end-user", exact("jason")), None, False),
        (HeaderMatch("end-user", exact("jason"), invert=True), "bob", True),
        (HeaderMatch("end-user", exact("jason"), invert=True), None, False),
        (HeaderMatch("end-user", exact("jason"), invert=True, missing_as_empty=True), None, True),
        (HeaderMatch("end-user", exact(""), missing_as_empty=True), None, True),
        (HeaderMatch("end-user", PRESENT), "", True),
        (HeaderMatch("end-user", PRESENT), None, False),
        (HeaderMatch("end-user", PRESENT, invert=True), None, True),
        (HeaderMatch("end-user", PRESENT, invert=True), "bob", False),
        (HeaderMatch("end-user", regex("jas.*")), "jason", True),
        (HeaderMatch("end-user", regex("jas")), "jason", False),
    ],
)
def test_header_conditions(condition: HeaderMatch, value: str | None, expected: bool) -> None:
    """Envoy's truth table of header conditions, with and without the header."""
    asked = request(end_user=value) if value is not None else request()
    assert header_matches(condition, asked) is expected


def test_each_line_of_a_header_counts() -> None:
    """Of several lines one that fits is enough, inverted none may fit; they are not joined (seen in Envoy 1.40)."""
    asked = Request("GET", "http", "reviews", "/", (("x", "a"), ("x", "b")))
    assert header_matches(HeaderMatch("x", exact("b")), asked)
    assert not header_matches(HeaderMatch("x", exact("a,b")), asked)
    assert not header_matches(HeaderMatch("x", exact("b"), invert=True), asked)
    assert header_matches(HeaderMatch("x", exact("c"), invert=True), asked)


def test_pseudo_headers_and_host() -> None:
    """Method, authority and scheme are headers; `host` is the authority."""
    asked = request(method="POST", authority="reviews:9080")
    for name, value in ((":method", "POST"), (":authority", "reviews:9080"), (":scheme", "http"), ("host", "reviews:9080")):
        assert header_matches(HeaderMatch(name, exact(value)), asked), name


def test_query_parameters_as_written() -> None:
    """The first of equal names counts, nothing is decoded, a bare name has the empty value."""
    assert query_parameters("/p?a=1&b&a=2&c=%20x=") == {"a": "1", "b": "", "c": "%20x="}
    parameters = query_parameters("/p?a=1&b")
    assert query_matches(QueryMatch("a", exact("1")), parameters)
    assert query_matches(QueryMatch("b", exact("")), parameters)
    assert not query_matches(QueryMatch("c", PRESENT), parameters)


def test_the_first_unmet_condition_is_named() -> None:
    """`unmet` gives the very condition that failed: path first, then headers, then the query."""
    header, query = HeaderMatch("end-user", exact("jason")), QueryMatch("v", exact("2"))
    rule = match(prefix("/reviews"), [header], [query])
    assert failed(rule, request("/other")) is rule.path
    assert failed(rule, request()) is header
    assert failed(rule, request(end_user="jason")) is query
    assert failed(rule, request("/reviews?v=2", end_user="jason")) is None


NAIVE: dict[MatchKind, Callable[[str, str], bool]] = {
    MatchKind.EXACT: lambda value, text: value == text,
    MatchKind.PREFIX: lambda value, text: text[: len(value)] == value,
    MatchKind.SUFFIX: lambda value, text: not value or text[-len(value) :] == value,
    MatchKind.CONTAINS: lambda value, text: re.search(re.escape(value), text) is not None,
    MatchKind.PRESENT: lambda value, text: True,
}

SHORT = st.text("abA/", max_size=4)


@given(kind=st.sampled_from(sorted(NAIVE, key=lambda kind: kind.value)), value=SHORT, text=SHORT, ignore_case=st.booleans())
def test_comparisons_agree_with_naive_ones(kind: MatchKind, value: str, text: str, ignore_case: bool) -> None:
    """Every kind of comparison says what its plainest spelling says."""
    value, seen = (value.lower(), text.lower()) if ignore_case else (value, text)
    assert text_matches(StringMatch(kind, value, ignore_case), text) == NAIVE[kind](value, seen)


def test_texts_are_bytes() -> None:
    """What an object says in UTF-8 fits a request that says it in UTF-8; beyond ASCII there is no second case."""
    wire = "é".encode().decode("latin-1")
    assert header_matches(HeaderMatch("x", regex("é")), request("/", x=wire))
    assert not header_matches(HeaderMatch("x", regex("é")), request("/", x="é"))
    assert not text_matches(StringMatch(MatchKind.EXACT, "É".encode().decode("latin-1"), ignore_case=True), wire)
