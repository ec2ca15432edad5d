"""What a server does before its policy is known, and when it was refused: the decisions alone, without a clock."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from meshlib.config.model import PeerMode
from meshlib.config.policy import InboundListener
from meshlib.config.snapshot import EMPTY, Snapshot
from meshlib.config.subscription import Item, Kind, Update
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.visit import Denied, Permit, Visit
from meshlib.runtime import own_port
from meshlib.runtime.admission import admit_async, admit_sync
from meshlib.runtime.events import State
from meshlib.runtime.own_port import UNSERVED, OwnPort, Undecided

NAME = "xds.istio.io/grpc/lds/inbound/127.0.0.1:9080"
LISTENER = InboundListener(NAME, PeerMode.STRICT)
KNOWN = replace(EMPTY, inbound={NAME: LISTENER})
ABSENT = replace(EMPTY, absent=frozenset({NAME}))
REFUSAL = Update(Kind.LISTENER, "1", problem="http_filters[0]: lua is not known", refused=(NAME,))
ACCEPTED = Update(Kind.LISTENER, "2", (Item(NAME, "2", LISTENER),))


def expecting(*, strict: bool = False) -> OwnPort:
    port = OwnPort(strict=strict)
    port.expect()
    return port


def visit() -> Visit:
    return Visit(Request("GET", "http", "reviews:9080", "/", ()), Peer(address="10.0.0.1:1"))


def answer(port: InboundPort) -> Permit | Denied:
    assert not isinstance(port, Undecided)
    return admit_sync(port, visit())


def refusal(port: InboundPort) -> str:
    """Why the port is closed."""
    denied = answer(port)
    assert isinstance(denied, Denied)
    assert denied.status == 503
    assert denied.reason not in denied.words, "it may quote the configuration"
    return denied.reason


def test_a_port_that_was_just_announced_is_undecided() -> None:
    """From the moment of the announcement, before the control thread has heard of it."""
    port = OwnPort(strict=False)
    assert port.accepts is UNSERVED
    port.expect()
    assert isinstance(port.accepts, Undecided)
    for state in (State.CONNECTING, State.LIVE):
        port.decide(NAME, EMPTY, state)
        assert isinstance(port.accepts, Undecided)


def test_who_waits_gets_the_policy() -> None:
    """Whoever has seen the undecided port goes on with the decided one."""
    port = expecting()
    seen = port.accepts
    assert isinstance(seen, Undecided)
    port.decide(NAME, KNOWN, State.LIVE)
    assert seen.settled().mode is PeerMode.STRICT
    assert port.accepts is seen.settled()


def test_the_policy_is_prepared_once() -> None:
    """As long as the listener stays the same object."""
    port = expecting()
    port.decide(NAME, KNOWN, State.LIVE)
    first = port.accepts
    port.decide(NAME, KNOWN, State.DOWN)
    assert port.accepts is first


async def test_one_request_that_gives_up_takes_nobody_with_it() -> None:
    """A client that leaves cancels its own wait only."""
    port = expecting()
    leaving = asyncio.create_task(admit_async(port.accepts, visit()))
    staying = asyncio.create_task(admit_async(port.accepts, visit()))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    port.decide(NAME, replace(EMPTY, inbound={NAME: InboundListener(NAME, PeerMode.PERMISSIVE)}), State.LIVE)
    assert isinstance(await staying, Permit)


async def test_a_wait_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of the control thread; then it is refused."""
    monkeypatch.setattr(own_port, "LONGEST_WAIT", 0.0)
    undecided = Undecided()
    assert "has not told" in refusal(undecided.settled())
    assert "has not told" in refusal(await undecided.settled_async())


def test_a_refused_first_listener_closes_the_port(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what it demands. The reason is told once."""
    port = expecting()
    port.told(NAME, REFUSAL)
    for state in State:
        port.decide(NAME, EMPTY, state)
        assert "lua is not known" in refusal(port.accepts)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert "127.0.0.1:9080 refuses every request" in told[0]
    assert "lua is not known" in told[0]


def test_a_later_refusal_keeps_the_last_good_listener() -> None:
    """Security was told once; it stays."""
    port = expecting()
    port.told(NAME, ACCEPTED)
    port.decide(NAME, KNOWN, State.LIVE)
    port.told(NAME, REFUSAL)
    port.decide(NAME, KNOWN, State.LIVE)
    assert port.accepts.mode is PeerMode.STRICT


def test_a_good_listener_opens_a_closed_port() -> None:
    """What was refused is forgotten."""
    port = expecting()
    port.told(NAME, REFUSAL)
    port.decide(NAME, EMPTY, State.LIVE)
    port.told(NAME, ACCEPTED)
    port.decide(NAME, KNOWN, State.LIVE)
    assert port.accepts.mode is PeerMode.STRICT
    port.decide(NAME, EMPTY, State.LIVE)
    assert isinstance(port.accepts, Undecided)


def test_a_refused_listener_of_another_port_closes_nothing() -> None:
    """Each port has its own."""
    port = expecting()
    port.told(NAME, replace(REFUSAL, refused=("ratings:9080",)))
    port.decide(NAME, EMPTY, State.LIVE)
    assert isinstance(port.accepts, Undecided)


@pytest.mark.parametrize("snapshot", [ABSENT], ids=["absent"])
@pytest.mark.parametrize("state", list(State))
def test_a_port_that_the_control_plane_does_not_know_is_closed(snapshot: Snapshot, state: State) -> None:
    """Envoy and gRPC do not serve without a listener either."""
    port = expecting()
    port.decide(NAME, snapshot, state)
    assert "knows no such port" in refusal(port.accepts)


def test_without_a_control_plane_everybody_enters_and_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Availability first, unless MESHLIB_STRICT says otherwise."""
    port = expecting()
    for _ in range(3):
        port.decide(NAME, EMPTY, State.DOWN)
    assert isinstance(answer(port.accepts), Permit)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "lets everybody in" in caplog.text
    assert "MESHLIB_STRICT" in caplog.text


def test_strict_refuses_without_a_control_plane() -> None:
    """MESHLIB_STRICT: nothing is known, so nobody enters."""
    port = expecting(strict=True)
    port.decide(NAME, EMPTY, State.DOWN)
    assert "MESHLIB_STRICT" in refusal(port.accepts)


def test_a_control_plane_that_is_back_is_waited_for() -> None:
    """An open port becomes undecided while it is asked, then obeys."""
    port = expecting()
    port.decide(NAME, EMPTY, State.DOWN)
    port.decide(NAME, EMPTY, State.LIVE)
    assert isinstance(port.accepts, Undecided)
    port.decide(NAME, KNOWN, State.LIVE)
    assert port.accepts.mode is PeerMode.STRICT


def test_an_open_policy_that_is_lost_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A listener without filters admits everybody as well, but somebody said so."""
    port = expecting()
    port.decide(NAME, replace(EMPTY, inbound={NAME: InboundListener(NAME, PeerMode.PERMISSIVE)}), State.LIVE)
    port.decide(NAME, EMPTY, State.DOWN)
    assert "lets everybody in" in caplog.text


def test_who_waited_in_vain_is_refused_until_the_policy_comes() -> None:
    """The control plane is there and says nothing about this port."""
    port = expecting()
    port.lose_patience()
    port.decide(NAME, EMPTY, State.LIVE)
    assert "has not told" in refusal(port.accepts)
    port.decide(NAME, KNOWN, State.LIVE)
    assert port.accepts.mode is PeerMode.STRICT


def test_what_an_earlier_process_left_is_for_its_port_only() -> None:
    """By address and port; given once."""
    other = replace(LISTENER, name=NAME.replace("9080", "9081"))
    port = OwnPort(strict=False)
    port.remember([Item(NAME, "1", LISTENER), Item(other.name, "1", other)])
    assert port.left(NAME.replace("9080", "0")) == ()
    assert [item.name for item in port.left(NAME)] == [NAME]
    assert port.left(NAME) == ()


def test_nothing_is_decided_while_nothing_is_served() -> None:
    """A client has no port."""
    port = OwnPort(strict=True)
    port.decide("", EMPTY, State.DOWN)
    assert port.accepts is UNSERVED
