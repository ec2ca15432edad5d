"""The request's side under ASGI: one `_Arrival` object per request, from its scope to its event."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import meshlib
from meshlib.errors import MeshError
from meshlib.inbound.ext_authz import BodyStart, ReadBody
from meshlib.inbound.forwarded import forwarded_client_cert
from meshlib.inbound.sender import enter, leave, let_in
from meshlib.inbound.visit import Answer, Denied, Question, refusal
from meshlib.runtime.admission import admit_async, answer_async, arrived, tell
from meshlib_asgi._convert import GONE, App, Message, Receive, Scope, Send, address, admitted, peer_of, raw_headers, request_of

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh
    from meshlib.telemetry.records import InboundRecord

_log = logging.getLogger("meshlib.asgi")
_SEEN = "meshlib.seen"  # in the scope: an outer MeshMiddleware has this request already


class MeshMiddleware:
    """Context, peer, admission and telemetry for every request of an ASGI application. Put it outermost.

    Args:
        app: the application.
        mesh: default: `meshlib.default()`, looked up with the first event, so that importing an application joins nothing.

    `http` and `websocket` are served, `lifespan` starts and stops the mesh; without lifespan the first request starts it.
    With `MESHLIB_TARGET_PORT` set, the service is registered once the application has started; `MeshProtocol` registers the
    port that the server really listens on.
    """

    def __init__(self, app: App, mesh: Mesh | None = None) -> None:
        self.app = app
        self._given = mesh
        self._joined = False

    @property
    def mesh(self) -> Mesh:
        """The mesh that this application is in."""
        return self._given or meshlib.default()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        if _SEEN in scope:
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif (mesh := self._started()).settings.enabled:
            await _Arrival(mesh, scope, receive, send).serve(self.app)
        else:
            await self.app(scope, receive, send)

    def _started(self) -> Mesh:
        mesh = self.mesh
        if not self._joined:
            mesh.start()
            self._joined = True
        return mesh

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            mesh = self._started()
        except MeshError as error:  # wrong settings: the server must not start; an exception would only mean "no lifespan"
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        _warn_of_outer_middleware(scope)

        async def told(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete" and mesh.settings.target_port:
                mesh.serve(mesh.settings.target_port, mesh.settings.address)
            elif message["type"].startswith("lifespan.shutdown"):
                mesh.close()

        await self.app({**scope, _SEEN: True}, receive, told)


def _warn_of_outer_middleware(scope: Scope) -> None:
    """BaseHTTPMiddleware runs what is inside it in another task: context set here does not reach its own code, and back."""
    for layer in getattr(scope.get("app"), "user_middleware", ()):
        kind = getattr(layer, "cls", None)
        if kind is MeshMiddleware:
            return
        if isinstance(kind, type) and any(base.__name__ == "BaseHTTPMiddleware" for base in kind.__mro__):
            _log.warning(
                "%s is outside MeshMiddleware: calls it makes carry no request context. Add MeshMiddleware last", kind.__name__
            )


class _Arrival:
    """One request: what was asked, what was answered, how it ended."""

    __slots__ = (
        "_added", "_denied", "_ended", "_gone", "_kept", "_mesh", "_receive", "_received", "_record", "_request", "_scope",
        "_send", "_sent", "_status", "peer",
    )  # fmt: skip

    def __init__(self, mesh: Mesh, scope: Scope, receive: Receive, send: Send) -> None:
        self._mesh = mesh
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request = request_of(scope)
        self.peer = peer_of(scope)
        self._record: InboundRecord = mesh.telemetry.inbound(self._request, self.peer)
        self._status = 0
        self._received = self._sent = 0
        self._gone = False
        self._ended = False
        self._added: list[tuple[bytes, bytes]] = []
        self._kept: deque[Message] = deque()  # read for a filter, not yet by the application
        self._denied: Denied | None = None

    async def serve(self, app: App) -> None:
        """Run the application with context and peer set, or refuse; tell what happened."""
        token = enter(self.peer)
        try:
            await self._admit(app)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._end()
            leave(token)
            self._record.close()

    async def _admit(self, app: App) -> None:
        mesh, port = self._mesh, self._mesh.inbound
        visit = arrived(self._request, self.peer, address(self._scope.get("server")), mesh.counting)
        answer = await admit_async(port, visit, self._answer)
        tell(_log, port, visit, answer)
        self._record.judged(visit.request, visit.dry_runs)
        if isinstance(answer, Denied):
            await self._refuse(answer)
            return
        let_in(answer.metadata)
        certificate = forwarded_client_cert(str(self._mesh.certificates.spiffe_id or ""), self.peer)
        scope = admitted(self._scope, self._request, answer.request, certificate, self._record.context.request_id)
        scope[_SEEN] = True
        self._added = raw_headers(answer.response_headers)
        await app(scope, self._on_receive, self._on_send)

    async def _answer(self, question: Question) -> Answer:
        if isinstance(question, ReadBody):
            return await self._read(question.most)
        return await answer_async(self._mesh, question)

    async def _read(self, most: int) -> BodyStart:
        """The beginning of the body; the application gets the same messages again."""
        data, more = bytearray(), self._scope["type"] == "http"
        while more and len(data) <= most:
            message = await self._receive()
            self._kept.append(message)
            data += message.get("body", b"")
            more = bool(message.get("more_body", False))
        return BodyStart(bytes(data[:most]), len(data) > most)

    async def _refuse(self, answer: Denied) -> None:
        self._denied = answer
        if self._scope["type"] == "websocket":
            await self._on_receive()
            await self._on_send({"type": "websocket.close", "code": 1008})
            return
        body, headers = refusal(answer)
        head = raw_headers((*headers, ("connection", "close")))
        await self._on_send({"type": "http.response.start", "status": answer.status, "headers": head})
        await self._on_send({"type": "http.response.body", "body": body})

    async def _on_receive(self) -> Message:
        message = self._kept.popleft() if self._kept else await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
        elif message["type"].endswith(".disconnect"):
            self._gone = not self._ended
        return message

    async def _on_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            self._record.responded()
            if self._added:
                message = {**message, "headers": [*message.get("headers", ()), *self._added]}
        elif kind.startswith("websocket."):
            self._note_websocket(kind)
        last = kind == "http.response.body" and not message.get("more_body", False)
        if last:
            self._gone = self._gone or self._lost()
        self._sent += len(message.get("body", b""))
        await self._send(message)
        if last:
            self._end()  # now: the application may go on with background tasks

    def _note_websocket(self, kind: str) -> None:
        if kind == "websocket.accept":
            self._status = 101
        elif kind == "websocket.close" and not self._status:
            self._status = 403  # ASGI: a close before the accept is answered so

    def _lost(self) -> bool:
        """Whether the client left before the last byte; only MeshProtocol can say, other servers drop what is sent."""
        gone = self._scope.get("extensions", {}).get(GONE)
        return bool(gone and gone())

    def _fail(self, error: BaseException) -> None:
        # Once the client left, whatever the application raises follows from it: ClientDisconnect, OSError, a closed stream.
        self._gone = self._gone or self._lost() or isinstance(error, asyncio.CancelledError)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        status, flags = self._outcome()
        event = self._record.event(
            status=status,
            flags=flags,
            detail=self._denied.detail if self._denied is not None else "",
            bytes_received=self._received,
            bytes_sent=self._sent,
            protocol=f"HTTP/{self._scope.get('http_version', '1.1')}",
            local_address=address(self._scope.get("server")),
        )
        self._record.end(event)

    def _outcome(self) -> tuple[int, str]:
        """Status and response flag. Envoy: a client that left is status 0, flag DC."""
        if self._status == 101:
            return 101, "-"
        if self._gone:
            return 0, "DC"
        return self._status or 500, self._denied.flag if self._denied is not None else "-"
