"""Calls that go on by themselves: futures of one response, and streams of responses.

A thread drives each until its response is committed to; from then on the call is gRPC's own, and this object its caller's
view of it.

Rule 1: a stream is committed to with its first message, with initial metadata that say something, or with its end.
Rule 2: an empty head may be the end of a try that is followed by another one. It is the head of a response if nothing follows
for a moment; only a caller who asks for it waits for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self
from weakref import ref

import grpc

from meshlib.config.snapshot import Destination
from meshlib.errors import IdentityError, UpstreamError
from meshlib.facts import Failure, FailureKind, Response
from meshlib.outbound.exchange import Deliver, LocalReply, Send
from meshlib.runtime.drive import drive_sync

from ._blocking import told
from ._call import READY_AGAIN, Status
from ._convert import response_of
from ._errors import MeshCallError
from ._lines import Line
from ._request import Request, plain

MOMENT = 0.02
"""Seconds, see rule 2. A status that came with the head is there at once."""

_CANCELLED = "Locally cancelled by application!"
_NOTHING = object()


class _Gone(Exception):
    """The application cancelled the call."""


class ActiveCall(grpc.Call, grpc.Future):  # type: ignore[misc]  # grpc has no type information
    """A call with one response, and its future."""

    how = "future"

    def __init__(self, request: Request) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._gone = threading.Event()
        self._line: Line | None = None
        self._inner: Any = None  # the try under way; once settled: the call, or the error in its place
        self._error: Any = None
        self._callbacks: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._request.codec.method} {self._inner!r}>"

    def begin(self, destination: Destination) -> Self:
        """Let it go."""
        self._request.channel.keep(self)
        threading.Thread(target=self._drive, args=(destination,), name="meshlib-grpc-call", daemon=True).start()
        return self

    # The driver

    def _drive(self, destination: Destination) -> None:
        try:
            self._settle(self._final(destination))
        except grpc.RpcError as error:
            self._settle(error)
        except Status as status:
            self._request.call.abandoned()
            self._settle(MeshCallError(status))
        except Exception as error:  # whatever it was, somebody waits for the end
            self._request.call.abandoned()
            self._settle(MeshCallError(Status(grpc.StatusCode.UNKNOWN, f"Exception iterating requests: {error}", error)))

    def _final(self, destination: Destination) -> Any:
        try:
            return self._deliver(self._driven(destination))
        except _Gone:
            self._request.call.abandoned()
            return MeshCallError(Status(grpc.StatusCode.CANCELLED, _CANCELLED))

    def _driven(self, destination: Destination) -> Deliver | LocalReply:
        request, call = self._request, self._request.call
        while True:
            try:
                return drive_sync(call.machine(destination), self._attempt, self._pause)
            except UpstreamError as error:
                if not call.waits_for(error, request.wait_for_ready):
                    raise told(call.failed(error)) from error
            self._pause(READY_AGAIN)
            destination = request.channel.destination() or destination

    def _deliver(self, final: Deliver | LocalReply) -> Any:
        request, call = self._request, self._request.call
        if isinstance(final, LocalReply):
            raise MeshCallError(call.replied(final))
        request.commit()
        call.delivered(final)
        inner, line = self._inner, self._line
        assert line is not None
        self._line = None
        # It holds neither this object nor gRPC's: a stream that its caller forgets must not live on in its own callback.
        ended = partial(_ended, ref(inner), request, line, self._gone)
        if not inner.add_callback(ended):
            ended()
        return inner

    def _attempt(self, send: Send) -> Response | Failure:
        self._drop()
        request = self._request
        try:
            line = self._line = request.channel.line(send)
        except (IdentityError, OSError) as error:
            return request.unconnected(error)
        with self._lock:
            if self._gone.is_set():
                raise _Gone
            inner = self._inner = request.start(line, send, self.how, self._try_seconds(send))
        try:
            response = self._head(inner, send)
        except grpc.RpcError as error:
            return self._judge(error, line)
        request.call.responded(line.principal)
        return response

    def _judge(self, error: Any, line: Line) -> Response | Failure:
        if self._gone.is_set():
            raise _Gone from None
        found = self._request.judge(error, line)
        if isinstance(found, Failure) and found.kind is FailureKind.CONNECT:
            self._drop(broken=True)
        return found

    def _try_seconds(self, send: Send) -> float | None:
        return send.timeout

    def _head(self, inner: Any, send: Send) -> Response:
        """Wait for the response. Raises grpc.RpcError."""
        try:
            error = inner.exception()
        except grpc.FutureCancelledError:
            raise _Gone from None
        if error is not None:
            raise error
        return response_of(plain(inner.initial_metadata()))

    def _drop(self, *, broken: bool = False) -> None:
        """The try is over and not for the caller."""
        line, self._line = self._line, None
        if line is not None:
            if self._inner is not None and not self._inner.done():
                self._inner.cancel()
            self._request.channel.release(line, broken=broken)

    def _pause(self, seconds: float) -> None:
        self._drop()
        if self._gone.wait(seconds):
            raise _Gone

    def _settle(self, inner: Any) -> None:
        self._drop()
        with self._lock:
            self._inner = inner
            self._settled.set()
            callbacks, self._callbacks = self._callbacks, []
            gone = self._gone.is_set()
        if gone:
            inner.cancel()
        for callback in callbacks:
            inner.add_done_callback(lambda _, callback=callback: callback())

    # The caller

    def _subject(self, timeout: float | None = None) -> Any:
        """The call that was committed to, or the error in its place."""
        if not self._settled.wait(timeout):
            raise grpc.FutureTimeoutError
        return self._inner

    def result(self, timeout: float | None = None) -> Any:
        """The response. Raises grpc.RpcError, grpc.FutureTimeoutError, grpc.FutureCancelledError."""
        inner = self._subject(timeout)
        if self.cancelled():
            raise grpc.FutureCancelledError
        return inner.result(timeout)

    def exception(self, timeout: float | None = None) -> Any:
        """The error, None for none. Raises grpc.FutureTimeoutError, grpc.FutureCancelledError."""
        inner = self._subject(timeout)
        if self.cancelled():
            raise grpc.FutureCancelledError
        return inner.exception(timeout)

    def traceback(self, timeout: float | None = None) -> Any:
        """Of the error."""
        return self._subject(timeout).traceback(timeout)

    def cancel(self) -> bool:
        """Give up, also on what the server is doing."""
        with self._lock:
            done = self._settled.is_set() and self._inner.done()
            if not done:
                self._gone.set()
            inner = self._inner
        if inner is not None and not done:
            inner.cancel()
        return not done

    def cancelled(self) -> bool:
        """Whether `cancel` ended the call."""
        return self._settled.is_set() and bool(self._gone.is_set() and self._inner.code() is grpc.StatusCode.CANCELLED)

    def running(self) -> bool:
        """Whether it goes on."""
        return not self.done()

    def is_active(self) -> bool:
        """Whether it goes on."""
        return not self.done()

    def done(self) -> bool:
        """Whether it is over."""
        return self._settled.is_set() and bool(self._inner.done())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self._request.call.remaining()

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call `fn` with this call when it is over."""
        self._when_done(lambda: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call `callback` when it is over; False: it is over already."""
        if self.done():
            return False
        self._when_done(callback)
        return True

    def _when_done(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self._settled.is_set():
                self._callbacks.append(callback)
                return
        self._inner.add_done_callback(lambda _: callback())

    def initial_metadata(self) -> Any:
        """What came before the first message."""
        return self._subject().initial_metadata()

    def trailing_metadata(self) -> Any:
        """What came after the last message."""
        return self._subject().trailing_metadata()

    def code(self) -> Any:
        """The status."""
        return self._subject().code()

    def details(self) -> Any:
        """The status' words."""
        return self._subject().details()

    def debug_error_string(self) -> Any:
        """More words, for developers."""
        return self._subject().debug_error_string()


class ActiveStream(ActiveCall):
    """A call with a stream of responses, and their iterator."""

    how = "__call__"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._first: Any = _NOTHING
        self._empty_head = threading.Event()
        self._reading = threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next response. Raises grpc.RpcError if the call failed."""
        inner = self._subject()
        with self._reading:
            if self._first is not _NOTHING:
                first, self._first = self._first, _NOTHING
                return first
        if isinstance(inner, MeshCallError):
            raise inner
        return next(inner)

    next = __next__

    def initial_metadata(self) -> Any:
        """What came before the first message."""
        while not self._settled.wait(MOMENT):
            if self._empty_head.is_set() and not self._settled.wait(MOMENT):
                return ()
        return self._inner.initial_metadata()

    def __del__(self) -> None:
        if self._settled.is_set() and not self._inner.done():
            self._gone.set()
            self._inner.cancel()  # forgotten before its end: the endpoint must not count as busy for ever

    def _try_seconds(self, send: Send) -> float | None:
        return self._request.call.seconds(send)  # of the whole call: a stream outlives its try's timeout

    def _head(self, inner: Any, send: Send) -> Response:
        whole, late = self._request.call.seconds(send), threading.Event()
        timer = None
        if send.timeout is not None and (whole is None or send.timeout < whole - MOMENT):
            timer = threading.Timer(send.timeout, _give_up, (inner, late))
            timer.daemon = True
            timer.start()
        try:
            return self._committed(inner)
        except grpc.RpcError as error:
            if late.is_set():
                raise MeshCallError(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _committed(self, inner: Any) -> Response:
        initial = plain(inner.initial_metadata())
        if not initial:
            self._empty_head.set()
            self._first = next(inner, _NOTHING)
        return response_of(initial)


def _ended(inner: ref[Any], request: Request, line: Line, gone: threading.Event) -> None:
    """gRPC calls this once, where the call ended."""
    call, known = request.call, inner()
    code = known.code() if known is not None else grpc.StatusCode.CANCELLED
    if known is None or (gone.is_set() and code is grpc.StatusCode.CANCELLED):
        call.abandoned()
    else:
        call.ended(code, flags=call.past(code, known.details() or ""))
    request.channel.release(line)


def _give_up(inner: Any, late: threading.Event) -> None:
    late.set()
    inner.cancel()
