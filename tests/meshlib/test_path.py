import pytest

from meshlib.path import normalized


@pytest.mark.parametrize(
    "path", ["/", "/reviews/0?x=%31", "/a//b", "/pkg.Service/Method", "/a%20b", "/%C3%A9", "/a;v=1", "/..a"]
)
def test_what_is_normal_stays(path: str) -> None:
    """Nearly all paths pass as they are; queries always do."""
    assert normalized(path) == path


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("/a/../b", "/b"),
        ("/../a", "/a"),
        ("/a/%2E./b?k=a/../b", "/b?k=a/../b"),
        ("/a/..", "/"),
        ("/a\\b", "/a/b"),
        ("/%61%2fb", "/a%2fb"),
        ("/a#top", "/a"),
        ("/a|b", "/a%7Cb"),
    ],
)
def test_one_route_for_two_ways_of_writing(written: str, read: str) -> None:
    """Dot segments, backslashes, needless escapes and fragments cannot lead past a rule."""
    assert normalized(written) == read


def test_a_null_is_refused() -> None:
    """Escaped NUL has no meaning in a path."""
    assert normalized("/a%00") is None
