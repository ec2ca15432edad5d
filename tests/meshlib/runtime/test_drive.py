import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from meshlib.config.model import Cluster
from meshlib.facts import Failure, FailureKind, Request, Response
from meshlib.outbound.balance import Load
from meshlib.outbound.exchange import LocalReply, Pause, Send
from meshlib.runtime.drive import drive_async, drive_sync
from tests.support.mesh import endpoint

SEND = Send(endpoint(1), Cluster("c"), 1, None, (), Request("GET", "http", "a", "/"), None, Load(endpoint(1), []))
REPLY = LocalReply(404, (), b"", "NR", "route_not_found")


class Machine:
    """Steps that are played to a driver, and what it answered."""

    def __init__(self, *steps: Pause | Send) -> None:
        self.steps = steps
        self.answers: list[object] = []
        self.closed = False

    def run(self) -> Generator[Any, Any, LocalReply]:
        try:
            for step in self.steps:
                self.answers.append((yield step))
            return REPLY
        finally:
            self.closed = True


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_steps_are_carried_out_in_order(kind: str) -> None:
    """A pause is answered with None, a try with its outcome; the return value is the final word."""
    machine, done = Machine(Pause(0.5, "delay"), SEND, Pause(0.1, "retry"), SEND), []
    outcomes = [Failure(FailureKind.RESET, "gone"), Response(200)]

    def attempt(send: Send) -> Response | Failure:
        done.append("send")
        return outcomes[done.count("send") - 1]

    async def attempt_async(send: Send) -> Response | Failure:
        return attempt(send)

    async def pause_async(seconds: float) -> None:
        done.append(seconds)

    if kind == "sync":
        final = drive_sync(machine.run(), attempt, done.append)
    else:
        final = asyncio.run(drive_async(machine.run(), attempt_async, pause_async))
    assert final is REPLY
    assert done == [0.5, "send", 0.1, "send"]
    assert machine.answers == [None, outcomes[0], None, outcomes[1]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, StopIteration, ValueError])
def test_machine_is_closed_whatever_happens(error: type[BaseException]) -> None:
    """A driver that stops early closes the machine, which then releases what it holds."""
    machine = Machine(SEND, SEND)

    def attempt(send: Send) -> Response | Failure:
        raise error

    with pytest.raises(error):
        drive_sync(machine.run(), attempt, lambda seconds: None)
    assert machine.closed
    assert machine.answers == []
