"""Whether others may be sent to our port: each row tells events and what follows from the last one."""

from __future__ import annotations

import pytest

from meshlib.runtime.events import Announcement
from meshlib.runtime.listing import Anew, Listing

ADDRESS = "10.0.0.1"
A, B = Announcement(ADDRESS, 9080), Announcement(ADDRESS, 9081)
POLICY_A, POLICY_B = A.inbound_name, B.inbound_name


def after(*events: str) -> tuple[Listing, Anew | None]:
    """A listing to which all this happened, and what it said last."""
    listing, to_do = Listing(ADDRESS), None
    for event in events:
        match event:
            case "serve A":
                to_do = listing.served(A)
            case "serve B":
                to_do = listing.served(B)
            case "certified":
                to_do = listing.certified()
            case "withdrawn":
                to_do = listing.withdrawn()
            case "opened":
                listing.opened()
            case "heard":
                listing.heard()
            case _:
                raise AssertionError(event)
    return listing, to_do


def story(value: object) -> str | None:
    """A row's name: its events."""
    return " | ".join(value) if isinstance(value, list) else None


@pytest.mark.parametrize(
    ("events", "to_do", "listed"),
    [
        (["serve A"], Anew(POLICY_A), False),
        (["serve A", "certified"], Anew(POLICY_A), True),
        (["serve A", "certified", "certified"], None, True),
        (["serve A", "serve A"], None, False),
        (["certified", "serve A"], Anew(POLICY_A), True),
        (["certified", "serve A", "serve A"], None, True),
        (["certified", "serve A", "serve B"], Anew(POLICY_B, forget=POLICY_A), True),
        (["certified", "serve A", "withdrawn"], Anew(POLICY_A), False),
        (["certified", "serve A", "withdrawn", "withdrawn"], None, False),
        (["certified", "serve A", "withdrawn", "certified"], None, False),
        (["certified", "serve A", "withdrawn", "serve A"], Anew(POLICY_A), True),
        (["certified", "serve A", "withdrawn", "serve B"], Anew(POLICY_B, forget=POLICY_A), True),
        (["serve A", "withdrawn"], None, False),
        (["serve A", "withdrawn", "certified"], None, False),
        (["serve A", "withdrawn", "serve A", "certified"], Anew(POLICY_A), True),
    ],
    ids=story,
)
def test_events(events: list[str], to_do: Anew | None, listed: bool) -> None:
    """Listed means served, certified and not withdrawn; each change is told on a new stream, the same again is not."""
    listing, said = after(*events)
    assert said == to_do
    assert listing.announcement.listed is listed


@pytest.mark.parametrize("event", ["certified", "withdrawn"])
def test_who_serves_nothing_has_nothing_to_tell(event: str) -> None:
    """A client gets certificates, too."""
    listing, said = after(event)
    assert said is None
    assert listing.policy == ""


@pytest.mark.parametrize(
    ("events", "known"),
    [
        (["certified", "serve A"], False),
        (["certified", "serve A", "opened"], False),
        (["certified", "serve A", "opened", "heard"], True),
        (["certified", "serve A", "opened", "heard", "serve A"], True),
        (["certified", "serve A", "opened", "heard", "serve B"], False),
        (["certified", "serve A", "opened", "heard", "opened"], False),
        (["certified", "serve A", "opened", "heard", "withdrawn", "opened", "heard"], False),
        (["serve A", "opened", "heard"], False),
        (["serve A", "opened", "heard", "certified"], False),
        (["serve A", "opened", "heard", "certified", "opened", "heard"], True),
    ],
    ids=story,
)
def test_when_others_know(events: list[str], known: bool) -> None:
    """Once the control plane has answered on the stream that announced the listed port."""
    listing, _ = after(*events)
    assert listing.known(answered=True) is known
    assert not listing.known(answered=False)


def test_what_was_read_is_news_once_on_each_stream() -> None:
    """Time to hear of a withdrawal counts from there."""
    listing, _ = after("certified", "serve A", "opened")
    assert [listing.heard(), listing.heard()] == [True, False]
    listing.opened()
    assert listing.heard()


def test_debugging_view() -> None:
    """The port, and how it stands with it."""
    assert repr(Listing(ADDRESS)) == "<Listing nothing served>"
    assert repr(after("serve A")[0]) == "<Listing 10.0.0.1:9080 not listed>"
    assert repr(after("certified", "serve A")[0]) == "<Listing 10.0.0.1:9080 listed>"
    assert repr(after("certified", "serve A", "withdrawn")[0]) == "<Listing 10.0.0.1:9080 withdrawn>"
