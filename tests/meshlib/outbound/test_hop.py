import pytest

from meshlib.facts import Request
from meshlib.outbound.hop import sanitized


def asked(connection: str) -> Request:
    return Request("GET", "http", "reviews", "/", (("x-a", "1"), ("connection", connection), ("x-b", "2")))


@pytest.mark.parametrize("usual", ["keep-alive", "close", "upgrade"])
def test_options_name_no_header(usual: str) -> None:
    """What clients usually say changes nothing."""
    assert sanitized(asked(usual)) == asked(usual)


def test_what_connection_names_ends_here() -> None:
    """In any case, among options."""
    found = sanitized(asked("close, X-B"))
    assert found is not None
    assert dict(found.headers) == {"x-a": "1", "connection": "close"}


@pytest.mark.parametrize("bad", ["x-forwarded-for", ":path", ",".join("abcdefghij")])
def test_hiding_is_refused(bad: str) -> None:
    """The origin of a request cannot be made to vanish."""
    assert sanitized(asked(bad)) is None


@pytest.mark.parametrize(
    ("told", "scheme"),
    [(["https"], "https"), (["HTTPS"], "https"), (["ftp"], "http"), (["https", "https"], "http"), ([], "http")],
)
def test_the_scheme_is_what_the_hop_before_us_said(told: list[str], scheme: str) -> None:
    """Where it names one, and once only."""
    found = sanitized(Request("GET", "http", "reviews", "/", tuple(("x-forwarded-proto", value) for value in told)))
    assert found is not None
    assert found.scheme == scheme
