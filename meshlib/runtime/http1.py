"""HTTP/1.1 as the client speaks it, without a socket: requests become bytes, bytes become a response.

Both shells use the same two halves:

    `request_head` and `Framing`    what goes on the wire, from `facts.Request` and a body
    `ResponseParser`                what came from it: `head`, then `chunks`, then `complete`

Header names travel in lower case, as Envoy sends them. Hop-by-hop fields are the mesh's own business, not the caller's
(RFC 9110 7.6.1): the caller's are dropped, also `upgrade`, so that no peer is invited to leave HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httptools

from meshlib.errors import InvalidRequest
from meshlib.facts import Headers, Request, Response

_HOP_BY_HOP: Final = frozenset(
    {"connection", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_BODY_EXPECTED: Final = frozenset({"POST", "PUT", "PATCH"})
MAX_HEAD: Final = 60 * 1024  # Envoy's default for the headers of a response


class MalformedResponse(Exception):
    """The peer's bytes are not an HTTP/1.1 response to our request."""


class PeerClosed(ConnectionError):
    """The peer closed the connection in an orderly way, but too early."""


class BodyFailed(Exception):
    """The caller's own body could not be sent; `__cause__` is what it raised, and what the caller should see."""


@dataclass(slots=True)
class Framing:
    """How a request's body is delimited.

    Args:
        length: bytes that the head announces; None: chunked.
    """

    length: int | None
    written: int = 0

    def encode(self, data: bytes) -> bytes:
        """One piece of the body as it goes on the wire.

        Raises:
            InvalidRequest: more than the announced length.
        """
        if self.length is None:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would mean the end
        self.written += len(data)
        if self.written > self.length:
            raise InvalidRequest(f"the request's body is longer than its content-length, {self.length}")
        return data

    def end(self) -> bytes:
        """What closes the body on the wire.

        Raises:
            InvalidRequest: less than the announced length.
        """
        if self.length is None:
            return b"0\r\n\r\n"
        if self.written < self.length:
            raise InvalidRequest(f"the request's body ended after {self.written} of {self.length} bytes")
        return b""


def framing(request: Request, body: object) -> Framing:
    """How to delimit this body: bytes by their length, streams by the caller's content-length or in chunks.

    Raises:
        InvalidRequest: the caller's content-length is not a number.
    """
    if body is None or isinstance(body, bytes):
        return Framing(len(body or b""))
    announced = request.header("content-length")
    if announced is None:
        return Framing(None)
    if not announced.isdecimal():
        raise InvalidRequest(f"content-length is {announced!r}; write a number of bytes or leave it out")
    return Framing(int(announced))


def request_head(request: Request, added: Headers, length: int | None) -> bytes:
    """The request line and headers.

    Args:
        request: names in lower case; hop-by-hop fields and `content-length` are replaced by our own.
        added: what the mesh adds; replaces the caller's fields of the same name.
        length: bytes of the body; None: chunked.

    Raises:
        InvalidRequest: a line break or a character outside latin-1 where none may be: the head would mean something else.
    """
    if not request.method or not request.path.isascii() or " " in request.method or " " in request.path:
        raise InvalidRequest(f"no request line can be made of {request.method!r} {request.path!r}")
    replaced = {name for name, _ in added} if added else ()
    lines = [f"{request.method} {request.path} HTTP/1.1", f"host: {request.authority}"]
    lines += [
        f"{name}: {value}"
        for name, value in request.headers
        if name not in _HOP_BY_HOP and name != "content-length" and name not in replaced
    ]
    lines += [f"{name}: {value}" for name, value in added]
    if length is None:
        lines.append("transfer-encoding: chunked")
    elif length or request.method in _BODY_EXPECTED:
        lines.append(f"content-length: {length}")
    lines.append("\r\n")
    return _encode("\r\n".join(lines), len(lines))


def _encode(head: str, breaks: int) -> bytes:
    """Refuse what would smuggle: any line break besides ours (RFC 9112 11.1), any NUL."""
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise InvalidRequest("a header or the path of the request holds a line break or NUL; remove it")
    try:
        return head.encode("latin-1")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"a header of the request holds {error.object[error.start]!r}; HTTP/1.1 is latin-1") from error


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status line and headers as they came: names in the peer's case, values without surrounding blanks."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    http_version: str  # as in `1.1`

    def facts(self) -> Response:
        """What decisions read."""
        return Response(
            self.status, tuple([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self.headers])
        )

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; `name` in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class ResponseParser:
    """Reads the responses of one connection, one after the other.

    Attributes, valid between `begin` and the next `begin`:
        head: None until all headers came; informational responses (1xx) are skipped.
        chunks: pieces of the body that nobody took yet; `waiting` is their size in bytes.
        complete: the body ended.
        reusable: whether the connection may carry another request once this one is complete.
        touched: whether any byte of the response came.
    """

    __slots__ = (
        "_fed",
        "_headers",
        "_method",
        "_parser",
        "_reason",
        "_switched",
        "chunks",
        "complete",
        "head",
        "reusable",
        "touched",
        "waiting",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.complete = True  # between requests every byte is one too many
        self._reset("")

    def _reset(self, method: str) -> None:
        self._method = method
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._fed = 0
        self._switched = False
        self.head: ResponseHead | None = None
        self.chunks: list[bytes] = []
        self.waiting = 0
        self.reusable = True
        self.touched = False

    def begin(self, method: str) -> None:
        """A request was sent; its response comes next. HEAD's has no body, whatever its headers say."""
        self._reset(method)
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Take plain bytes from the peer.

        Raises:
            MalformedResponse: these bytes are not HTTP/1.1, switch protocols, or the head is too long.
        """
        self.touched = True
        if self.complete:  # nobody asked: an answer to nothing must not be taken for the next one (RFC 9112 9.2)
            self.reusable = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._switched = True
        except httptools.HttpParserError as error:
            self._broken(error)
        if self._switched:
            raise MalformedResponse("the peer switched protocols, which nobody asked for")
        self._bound_head(len(data))

    def eof(self, *, orderly: bool = True) -> None:
        """The peer will send nothing more.

        Args:
            orderly: whether the end can be trusted; without TLS's close_notify anybody on the path may have cut.

        Raises:
            PeerClosed: in the middle of a response, or before it.
        """
        self.reusable = False
        if self.complete:
            return
        if self.head is None:
            raise PeerClosed("the peer closed the connection without sending a response")
        if not orderly or not self._ends_with_connection(self.head):
            raise PeerClosed("the peer closed the connection before the response was complete")
        self.complete = True

    def take(self) -> bytes:
        """The body that came so far, once."""
        chunks = self.chunks
        if not chunks:
            return b""
        self.chunks = []
        self.waiting = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    # httptools calls these by name.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False  # a second response in one segment

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []  # trailers go to the new list, which nobody reads
        if status < 200:
            self._reason = b""
            self._switched = status == 101
            return
        self.head = ResponseHead(status, self._reason, headers, self._parser.get_http_version())
        if self._method == "HEAD":
            self._end_without_body(self.head)

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.chunks.append(data)
            self.waiting += len(data)
        else:
            self.reusable = False

    def on_message_complete(self) -> None:
        if self.head is None or self.complete:
            return
        self.complete = True
        self.reusable = self.reusable and self._parser.should_keep_alive()

    def _end_without_body(self, head: ResponseHead) -> None:
        """httptools cannot be told that no body follows, so it is replaced by one that expects nothing."""
        self.complete = True
        self.reusable = head.http_version == "1.1" and b"close" not in (head.header(b"connection") or b"").lower()
        self._parser = httptools.HttpResponseParser(self)

    def _broken(self, error: Exception) -> None:
        if not self.complete:
            raise MalformedResponse(f"the peer's response is not HTTP/1.1: {error}") from error
        self.reusable = False  # the response was whole; what follows it is not our problem

    def _bound_head(self, size: int) -> None:
        if self.head is None:
            self._fed += size
            if self._fed > MAX_HEAD:
                raise MalformedResponse(f"the headers of the response are longer than {MAX_HEAD} bytes")

    @staticmethod
    def _ends_with_connection(head: ResponseHead) -> bool:
        """RFC 9112 6.3, rule 8: neither length nor chunks."""
        return head.header(b"content-length") is None and b"chunked" not in (head.header(b"transfer-encoding") or b"").lower()
