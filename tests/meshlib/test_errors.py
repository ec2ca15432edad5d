"""What an error says to do next."""

from __future__ import annotations

import pytest

from meshlib.errors import Sighting


@pytest.mark.parametrize(
    ("method", "path", "advice"),
    [
        ("GET", "/", "meshlib explain GET http://reviews:9080/"),
        ("POST", "/test.Reviews/Say", "meshlib explain POST http://reviews:9080/test.Reviews/Say"),
        ("GET", "/login?password=secret", "meshlib explain GET http://reviews:9080/login"),
        ("GET", "/a;rm -r b", "meshlib explain GET 'http://reviews:9080/a;rm -r b'"),
    ],
)
def test_the_advice_is_a_command_about_the_very_request(method: str, path: str, advice: str) -> None:
    """To be typed as it is; the query, which may hold secrets, is left out."""
    seen = Sighting("reviews:9080", flag="UH", detail="no healthy endpoint", method=method, path=path)
    assert str(seen) == f"meshlib: UH: no healthy endpoint (to reviews:9080); see: {advice}"
