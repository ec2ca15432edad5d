"""A call whose only response its caller waits for, driven by the caller's own thread."""

from __future__ import annotations

from typing import Any

import grpc

from meshlib.config.snapshot import Destination
from meshlib.errors import IdentityError, UpstreamError
from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.exchange import Deliver, LocalReply, Send
from meshlib.runtime.drive import drive_sync

from ._call import READY_AGAIN, Status
from ._convert import response_of
from ._errors import MeshCallError
from ._request import Request, plain


class Blocking:
    """A call whose only response its caller waits for."""

    __slots__ = ("_answer", "_error", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._error: Any = None
        self._answer: tuple[bytes, grpc.Call] | None = None

    def run(self, destination: Destination) -> tuple[Any, grpc.Call]:
        """The response and its call. Raises grpc.RpcError."""
        request, call = self._request, self._request.call
        while True:
            try:
                final = drive_sync(call.machine(destination), self._attempt, request.channel.pause)
            except UpstreamError as error:
                if call.waits_for(error, request.wait_for_ready):
                    request.channel.pause(READY_AGAIN)
                    destination = request.channel.destination() or destination
                    continue
                raise told(call.failed(error)) from error
            except Status as status:
                call.abandoned()
                raise MeshCallError(status) from status.__cause__
            except BaseException as error:
                call.failed(error)
                raise
            return self._deliver(final)

    def _deliver(self, final: Deliver | LocalReply) -> tuple[Any, grpc.Call]:
        call = self._request.call
        if isinstance(final, LocalReply):
            raise MeshCallError(call.replied(final))
        call.delivered(final)
        if self._answer is None:
            error = self._error
            call.ended(error.code(), flags=call.past(error.code(), error.details() or ""))
            raise error
        try:
            message = self._request.codec.decode(call.received.add(self._answer[0]))
        except Status as status:
            call.ended(status.code)
            raise MeshCallError(status) from status.__cause__
        call.ended(grpc.StatusCode.OK)
        return message, self._answer[1]

    def _attempt(self, send: Send) -> Response | Failure:
        request = self._request
        try:
            line = request.channel.line(send)
        except (IdentityError, OSError) as error:
            return request.unconnected(error)
        broken = False
        try:
            self._answer = request.answered(line, send)
        except grpc.RpcError as error:
            self._error, self._answer = error, None
            found = request.judge(error, line)
            broken = isinstance(found, Failure) and found.kind is FailureKind.CONNECT
            return found
        finally:
            request.channel.release(line, broken=broken)
        request.call.responded(line.principal)
        return response_of(plain(self._answer[1].initial_metadata()))


def told(error: BaseException) -> BaseException:
    return MeshCallError(error) if isinstance(error, Status) else error
