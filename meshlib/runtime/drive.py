"""Carries out `outbound.exchange`, blocking or on asyncio: the same three lines twice, and everything else elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from meshlib.facts import Failure, Response
from meshlib.outbound.exchange import Deliver, Exchange, LocalReply, Pause, Send

Outcome = Response | Failure
Final = Deliver | LocalReply


def drive_sync(machine: Exchange, attempt: Callable[[Send], Outcome], pause: Callable[[float], None]) -> Final:
    """Run an exchange to its end.

    Args:
        attempt: sends, and answers with the head of the response or why there is none.
        pause: sleeps for seconds.

    Raises:
        UpstreamError: the exchange failed.
        BaseException: whatever `attempt` and `pause` raise; the exchange is closed then and releases its load.
    """
    try:
        step, final = _advance(machine, None)
        while step is not None:
            if isinstance(step, Pause):
                pause(step.seconds)
                step, final = _advance(machine, None)
            else:
                step, final = _advance(machine, attempt(step))
    finally:
        machine.close()
    assert final is not None
    return final


async def drive_async(
    machine: Exchange, attempt: Callable[[Send], Awaitable[Outcome]], pause: Callable[[float], Awaitable[None]]
) -> Final:
    """As `drive_sync`; cancellation closes the exchange, too."""
    try:
        step, final = _advance(machine, None)
        while step is not None:
            if isinstance(step, Pause):
                await pause(step.seconds)
                step, final = _advance(machine, None)
            else:
                step, final = _advance(machine, await attempt(step))
    finally:
        machine.close()
    assert final is not None
    return final


def _advance(machine: Exchange, outcome: Outcome | None) -> tuple[Pause | Send | None, Final | None]:
    try:
        return machine.send(outcome), None
    except StopIteration as end:
        return None, end.value
