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
    assert dict(found.headers) == {"x-a": "1", "connection": "close, X-B"}


@pytest.mark.parametrize("bad", ["x-forwarded-for", ":path", ",".join("abcdefghij")])
def test_hiding_is_refused(bad: str) -> None:
    """The origin of a request cannot be made to vanish."""
    assert sanitized(asked(bad)) is None
