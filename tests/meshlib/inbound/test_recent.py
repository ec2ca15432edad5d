"""A bounded memory."""

from __future__ import annotations

from meshlib.inbound.recent import Recent


def test_what_was_used_lately_is_remembered() -> None:
    """At least as many as asked for, whatever came before."""
    recent = Recent[int](10)
    for number in range(1000):
        recent.put(str(number), number)
    assert [recent.get(str(number)) for number in range(990, 1000)] == list(range(990, 1000))


def test_it_never_holds_more_than_twice_as_many() -> None:
    """Also while old entries are found again."""
    recent = Recent[int](10)
    for number in range(1000):
        recent.put(str(number), number)
        recent.get(str(number - 12))
        assert len(recent) <= 20
    assert recent.get("0") is None


def test_what_is_used_again_and_again_stays() -> None:
    """However many others come."""
    recent = Recent[int](10)
    recent.put("kept", 1)
    for number in range(1000):
        recent.put(str(number), number)
        assert recent.get("kept") == 1
