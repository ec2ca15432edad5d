import pytest

from meshlib.runtime.timing import CallerTimeout, Patience, Timeout, TryTimeout, earliest, remaining


@pytest.mark.parametrize(
    ("read", "route", "at", "whose"),
    [
        (None, None, None, TryTimeout),
        (3.0, None, 103.0, CallerTimeout),
        (None, 102.0, 102.0, TryTimeout),
        (3.0, 102.0, 102.0, TryTimeout),
        (3.0, 103.0, 103.0, TryTimeout),
        (3.0, 104.0, 103.0, CallerTimeout),
    ],
)
def test_the_earlier_limit_counts(read: float | None, route: float | None, at: float | None, whose: type) -> None:
    """The caller's patience or the route's moment; the route's if equal, since it may allow another try."""
    limit = Patience(Timeout(read=read), 100.0).limit("read", route)
    assert limit.at == at
    assert type(limit.error()) is whose


def test_patience_starts_anew_with_progress() -> None:
    """Time that counts elsewhere is added, progress begins the wait again, writing has its own limit."""
    patience = Patience(Timeout(read=3.0, write=1.0), 100.0)
    patience.extend(2.0)
    assert patience.limit("read", None).at == 105.0
    patience.restart(110.0)
    assert patience.limit("read", None).at == 113.0
    assert patience.limit("write", None).at == 111.0
    assert str(patience.limit("write", None).error()) == "the caller's write timeout of 1 s passed"


def test_arithmetic_of_for_ever() -> None:
    """None is longer than anything."""
    assert earliest(None, 2.0, 1.0) == 1.0
    assert earliest(None, None) is None
    assert remaining(None, 5.0) is None
    assert remaining(4.0, 5.0) == 0.0
