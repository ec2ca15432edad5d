"""The request's side under WSGI: one `_Arrival` object per request, which is also the iterable that the server reads.

A WSGI body is made while the server iterates, after the application has returned, possibly in another thread. So each request
has a context of its own (a copy, `contextvars.Context`) in which application, iteration and close run: nothing has to be reset
in the server's thread, and nothing of one request is seen by the next.
"""

from __future__ import annotations

import contextvars
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from http.client import responses
from typing import TYPE_CHECKING, Any

import meshlib
from meshlib.inbound.ext_authz import BodyStart, ReadBody
from meshlib.inbound.forwarded import forwarded_client_cert
from meshlib.inbound.sender import enter, let_in
from meshlib.inbound.visit import Answer, Denied, Question, refusal
from meshlib.runtime.admission import admit_sync, answer, arrived, tell
from meshlib_wsgi._body import Replayed
from meshlib_wsgi._convert import (
    SEEN,
    App,
    Environ,
    StartResponse,
    admit_into,
    change,
    local_address,
    peer_of,
    request_of,
    seen,
)

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh
    from meshlib.telemetry.records import InboundRecord

_log = logging.getLogger("meshlib.wsgi")


class MeshMiddleware:
    """Context, peer, admission and telemetry for every request of a WSGI application. Put it outermost.

    Args:
        app: the application, as in `app.wsgi_app = MeshMiddleware(app.wsgi_app)`.
        mesh: default: `meshlib.default()`, looked up with the first request, so that importing an application joins nothing
            and a preloading server may fork.

    WSGI has no start-up event: the first request of a process joins the mesh, and registers MESHLIB_TARGET_PORT if it is set.
    The worker classes of this package join and register before that.
    """

    def __init__(self, app: App, mesh: Mesh | None = None) -> None:
        self.app = app
        self._given = mesh
        self._joined = 0  # id of the process that joined: a fork has to join anew

    @property
    def mesh(self) -> Mesh:
        """The mesh that this application is in."""
        return self._given or meshlib.default()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        mesh = self.mesh
        if not mesh.settings.enabled or seen(environ):
            return self.app(environ, start_response)
        self._join(mesh)
        environ[SEEN] = True
        return _Arrival(mesh, environ, start_response).serve(self.app)

    def _join(self, mesh: Mesh) -> None:
        if self._joined == os.getpid():
            return
        mesh.start()
        if mesh.settings.target_port:
            mesh.serve(mesh.settings.target_port, mesh.settings.address)
        self._joined = os.getpid()


class _Arrival:
    """One request: what was asked, what was answered, how it ended."""

    __slots__ = (
        "_added",
        "_chunks",
        "_close",
        "_context",
        "_denied",
        "_environ",
        "_finished",
        "_mesh",
        "_record",
        "_sent",
        "_start",
        "_status",
        "peer",
    )

    def __init__(self, mesh: Mesh, environ: Environ, start_response: StartResponse) -> None:
        self._mesh = mesh
        self._environ = environ
        self._start = start_response
        self._context = contextvars.copy_context()
        self._status = 0
        self._sent = 0
        self._finished = False
        self._added: list[tuple[str, str]] = []
        self._denied: Denied | None = None
        self._chunks: Iterator[bytes] = iter(())
        self._close: Callable[[], object] | None = None
        self.peer = peer_of(environ)
        self._record: InboundRecord = self._context.run(mesh.telemetry.inbound, request_of(environ), self.peer)

    def serve(self, app: App) -> Iterable[bytes]:
        """Run the application in the request's context, or refuse; the answer is for the server to iterate and close."""
        try:
            body = self._context.run(self._admit, app)
        except BaseException:
            self._end(500)
            raise
        self._close = getattr(body, "close", None)
        if isinstance(body, self._environ.get("wsgi.file_wrapper") or ()):
            return self._watch_file(body)
        self._chunks = iter(body)
        return self

    def _admit(self, app: App) -> Iterable[bytes]:
        enter(self.peer)  # never left: the context ends with the request
        asked = self._record.request
        mesh, port = self._mesh, self._mesh.inbound
        visit = arrived(asked, self.peer, local_address(self._environ), mesh.counting)
        decided = admit_sync(port, visit, self._answer)
        tell(_log, port, visit, decided)
        self._record.judged(visit.request, visit.dry_runs)
        if isinstance(decided, Denied):
            return self._refuse(decided)
        let_in(decided.metadata)
        change(self._environ, asked, decided.request)
        self._added = decided.response_headers
        certificate = forwarded_client_cert(str(self._mesh.certificates.spiffe_id or ""), self.peer)
        admit_into(self._environ, self.peer, certificate, self._record.context.request_id)
        return app(self._environ, self._on_start)

    def _answer(self, question: Question) -> Answer:
        return self._read(question.most) if isinstance(question, ReadBody) else answer(self._mesh, question)

    def _read(self, most: int) -> BodyStart:
        """The beginning of the body, which the application gets again."""
        rest = self._environ["wsgi.input"]
        length = self._environ.get("CONTENT_LENGTH")
        data = rest.read(min(most + 1, int(length)) if length else most + 1)
        self._environ["wsgi.input"] = Replayed(data, rest)
        return BodyStart(data[:most], len(data) > most)

    def _refuse(self, answer: Denied) -> Iterable[bytes]:
        self._denied = answer
        body, headers = refusal(answer)
        self._on_start(f"{answer.status} {responses.get(answer.status, 'Refused')}", list(headers))
        return [body]

    def _watch_file(self, body: Any) -> Iterable[bytes]:
        """Servers send a file by its descriptor if they see their own wrapper: give it back, watch its end only."""
        self._finished = True
        body.close = self.close
        return body  # type: ignore[no-any-return]

    def _on_start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self._status = int(status[:3])
        self._record.responded()
        headers = [*headers, *self._added] if self._added else headers
        write = self._start(status, headers, exc_info) if exc_info else self._start(status, headers)

        def counted(data: bytes) -> object:
            self._sent += len(data)
            return write(data)

        return counted

    def __iter__(self) -> Iterator[bytes]:
        """The server reads the body."""
        return self

    def __next__(self) -> bytes:
        """The next piece of the body, made in the request's context."""
        try:
            chunk = self._context.run(next, self._chunks)
        except StopIteration:
            self._finished = True
            raise
        except BaseException:
            # Servers that have sent nothing answer 500; else they cut the response off, which Envoy calls UC.
            self._end(self._status if self._sent else 500, "UC" if self._sent else "-")
            raise
        self._sent += len(chunk)
        return chunk

    def close(self) -> None:
        """The server is done. A body that was not read to its end means that the client left."""
        try:
            if self._close is not None:
                self._context.run(self._close)
        finally:
            if self._finished:
                self._end(self._status or 500, self._denied.flag if self._denied is not None else "-")
            else:
                self._end(0, "DC")

    def _end(self, status: int, flags: str = "-") -> None:
        event = self._record.event(
            status=status,
            flags=flags,
            detail=self._denied.detail if self._denied is not None else "",
            bytes_received=int(self._environ.get("CONTENT_LENGTH") or 0),
            bytes_sent=self._sent,
            protocol=self._environ.get("SERVER_PROTOCOL", "HTTP/1.1"),
            local_address=local_address(self._environ),
        )
        self._record.end(event)  # only the first counts
        self._context.run(self._record.close)
