"""Carries out `inbound.admission`, blocking or on asyncio: the filters decide, here somebody is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, TypeVar

from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort, admission
from meshlib.inbound.ext_authz import AskGrpc, AskHttp, BodyStart, ReadBody
from meshlib.inbound.rate_limit import AskRateLimit, Counting
from meshlib.inbound.visit import Answer, Denied, Permit, Question, Visit
from meshlib.runtime.own_port import Undecided

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

T = TypeVar("T")


def nobody(question: Question) -> Answer:
    """Answers nothing: for ports whose filters decide alone."""
    raise LookupError(f"nobody answers {type(question).__name__}")


async def nobody_async(question: Question) -> Answer:
    """As `nobody`."""
    return nobody(question)


def answer(mesh: Mesh, question: Question) -> Answer:
    """Asks who a filter wants to know it from, waiting as long as it takes."""
    if isinstance(question, AskRateLimit):
        return mesh.rate_limit_services.ask(question)
    if isinstance(question, AskGrpc):
        return mesh.authorizers.ask(question)
    if isinstance(question, AskHttp):
        return mesh.authorizers.ask_http(question)
    if isinstance(question, ReadBody):
        return BodyStart()  # adapters answer it that have a body to show; a gRPC call's messages are not shown
    return nobody(question)


async def answer_async(mesh: Mesh, question: Question) -> Answer:
    """As `answer`."""
    if isinstance(question, AskRateLimit):
        return await mesh.rate_limit_services.ask_async(question)
    if isinstance(question, AskGrpc):
        return await mesh.authorizers.ask_async(question)
    if isinstance(question, AskHttp):
        return await mesh.authorizers.ask_http_async(question)
    return answer(mesh, question)


def tell(log: logging.Logger, port: InboundPort, visit: Visit, answer: Permit | Denied) -> None:
    """Log why a request may not enter, and what dry runs of policies found."""
    if (not visit.dry_runs and not isinstance(answer, Denied)) or not log.isEnabledFor(logging.INFO):
        return
    request, peer = visit.request, visit.peer
    what = f"{request.method} {request.path} from {peer.spiffe_id or peer.address}"
    for trial in visit.dry_runs:
        log.info("%s: %s", what, trial)
    if isinstance(answer, Denied):
        near = answer.closest(visit) if answer.closest else None
        name = near.policy if near else answer.policy
        origin = port.origins.get(name)
        place = [f"{name} is {origin}"] if origin else []
        log.info("refused %s: %s", what, "; ".join([answer.reason, *([str(near)] if near else []), *place]))


def arrived(request: Request, peer: Peer, local_address: str, counting: Counting | None = None) -> Visit:
    """A request that is here now."""
    return Visit(request, peer, local_address, peer.server_name, time.time(), counting)


def admit_sync(port: InboundPort, visit: Visit, ask: Callable[[Question], Answer] = nobody) -> Permit | Denied:
    """Whether a request may enter. Waits some seconds at most for a port about which nothing is known yet.

    Args:
        ask: answers what a filter asks, waiting as long as it takes; not called for filters that decide alone.
    """
    return drive_sync(admission(port.settled() if type(port) is Undecided else port, visit), ask)


async def admit_async(
    port: InboundPort, visit: Visit, ask: Callable[[Question], Awaitable[Answer]] = nobody_async
) -> Permit | Denied:
    """As `admit_sync`, for an event loop; for a known port without a question it never suspends."""
    return await drive_async(admission(await port.settled_async() if type(port) is Undecided else port, visit), ask)


def drive_sync(machine: Generator[Question, Answer, T], ask: Callable[[Question], Answer]) -> T:
    """Run a decision to its end."""
    answer: Answer = None
    try:
        while True:
            answer = ask(machine.send(answer))
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        machine.close()


async def drive_async(machine: Generator[Question, Answer, T], ask: Callable[[Question], Awaitable[Answer]]) -> T:
    """As `drive_sync`."""
    answer: Answer = None
    try:
        while True:
            answer = await ask(machine.send(answer))
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        machine.close()
