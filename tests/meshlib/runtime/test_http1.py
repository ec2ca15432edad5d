import pytest

from meshlib.errors import InvalidRequest
from meshlib.facts import Request
from meshlib.runtime.http1 import MAX_HEAD, Framing, MalformedResponse, PeerClosed, ResponseParser, framing, request_head


def head(*headers: tuple[str, str], method: str = "GET", path: str = "/", length: int | None = 0) -> bytes:
    return request_head(Request(method, "http", "a:80", path, headers), (("x-added", "1"),), length)


def parsed(*segments: bytes, method: str = "GET") -> ResponseParser:
    parser = ResponseParser()
    parser.begin(method)
    for segment in segments:
        parser.feed(segment)
    return parser


def test_head_is_written_with_our_own_framing() -> None:
    """Hop-by-hop fields and the caller's length are dropped, what the mesh adds replaces the caller's."""
    wire = head(
        ("accept", "*/*"),
        ("connection", "close"),
        ("x-added", "0"),
        ("content-length", "9"),
        ("transfer-encoding", "gzip"),
        method="POST",
        length=3,
    )
    assert wire == b"POST / HTTP/1.1\r\nhost: a:80\r\naccept: */*\r\nx-added: 1\r\ncontent-length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "length", "line"),
    [
        ("GET", 0, b""),
        ("POST", 0, b"content-length: 0\r\n"),
        ("GET", 5, b"content-length: 5\r\n"),
        ("PUT", None, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_length_is_said_where_it_is_expected(method: str, length: int | None, line: bytes) -> None:
    """RFC 9110 8.6: a length of zero is said for methods that have a body."""
    assert head(method=method, length=length).endswith(b"x-added: 1\r\n" + line + b"\r\n")


@pytest.mark.parametrize(
    "bad",
    [
        {"path": "/a b"},
        {"path": "/ü"},
        {"path": "/\r\nx: y"},
        {"method": "GET /x"},
        {"method": ""},
        {"headers": ("x", "a\nb")},
        {"headers": ("x", "a\0b")},
        {"headers": ("x\r\ny", "b")},
        {"headers": ("x", "€")},
    ],
)
def test_what_would_mean_something_else_is_refused(bad: dict[str, str]) -> None:
    """No caller can smuggle a line into the head."""
    headers = bad.pop("headers", None)
    with pytest.raises(InvalidRequest):
        head(*([headers] if headers else []), **bad)


def test_framing_follows_the_body() -> None:
    """Bytes know their length, streams go in chunks unless the caller says a length."""
    request = Request("PUT", "http", "a", "/", (("content-length", "3"),))
    assert framing(request, b"12345").length == 5
    assert framing(request, None).length == 0
    assert framing(request, iter([b""])).length == 3
    assert framing(Request("PUT", "http", "a", "/"), iter([])).length is None
    with pytest.raises(InvalidRequest, match="write a number"):
        framing(Request("PUT", "http", "a", "/", (("content-length", "-1"),)), iter([]))


def test_announced_length_is_kept() -> None:
    """A stream that is longer or shorter than announced is an error, before the peer takes the next request for its rest."""
    short, long = Framing(4), Framing(4)
    short.encode(b"abc")
    with pytest.raises(InvalidRequest, match="ended after 3 of 4"):
        short.end()
    with pytest.raises(InvalidRequest, match="longer"):
        long.encode(b"abcde")


def test_chunks_on_the_wire() -> None:
    """Sizes are hexadecimal; an empty piece is nothing, since an empty chunk would be the end."""
    chunked = Framing(None)
    assert chunked.encode(b"x" * 16) + chunked.encode(b"") + chunked.end() == b"10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"


RESPONSE = b"HTTP/1.1 200 All Right\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_response_in_any_segments(size: int) -> None:
    """The same response, however the network cuts it."""
    parser = parsed(*(RESPONSE[i : i + size] for i in range(0, len(RESPONSE), size)))
    assert parser.head is not None
    assert (parser.head.status, parser.head.reason, parser.head.http_version) == (200, b"All Right", "1.1")
    assert parser.head.headers == [(b"Content-Length", b"5"), (b"X-A", b"b")]
    assert parser.head.facts().headers == (("content-length", "5"), ("x-a", "b"))
    assert (parser.take(), parser.take(), parser.complete, parser.reusable) == (b"hello", b"", True, True)


def test_several_responses_one_after_the_other() -> None:
    """Each `begin` starts anew."""
    parser = parsed(RESPONSE)
    parser.begin("GET")
    assert parser.head is None
    parser.feed(RESPONSE)
    assert parser.complete
    assert parser.take() == b"hello"


def test_head_has_no_body_and_the_next_request_has_one() -> None:
    """The length in HEAD's response is that of GET's."""
    parser = parsed(RESPONSE.removesuffix(b"hello"), method="HEAD")
    assert (parser.complete, parser.reusable, parser.take()) == (True, True, b"")
    parser.begin("GET")
    parser.feed(RESPONSE)
    assert parser.take() == b"hello"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_body(status: bytes) -> None:
    """RFC 9112 6.3, rule 1."""
    parser = parsed(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n")
    assert (parser.complete, parser.reusable) == (True, True)


def test_informational_responses_leave_no_trace() -> None:
    """Their headers are not those of the response."""
    parser = parsed(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + RESPONSE)
    assert parser.head is not None
    assert parser.head.header(b"link") is None
    assert parser.head.reason == b"All Right"


def test_trailers_are_not_headers() -> None:
    """What comes after the last chunk is dropped."""
    parser = parsed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
    assert parser.head is not None
    assert (parser.take(), parser.complete, parser.head.header(b"x-sum")) == (b"abc", True, None)


@pytest.mark.parametrize("line", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\n"])
def test_peer_that_wants_to_close(line: bytes) -> None:
    """The connection is not used again."""
    parser = parsed(line + b"content-length: 0\r\n\r\n")
    assert (parser.complete, parser.reusable) == (True, False)


def test_more_than_was_asked_for() -> None:
    """A second response, at once or later, spoils the connection and not the response."""
    at_once = parsed(RESPONSE + RESPONSE)
    later = parsed(RESPONSE)
    later.feed(b"HTTP/1.1")
    assert (at_once.take(), at_once.reusable) == (b"hello", False)
    assert (later.take(), later.reusable) == (b"hello", False)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEAD + 1),
    ],
    ids=["ssh", "upgrade", "two-lengths", "no-number", "endless"],
)
def test_malformed(wire: bytes) -> None:
    """What cannot be understood in one way only is refused."""
    with pytest.raises(MalformedResponse):
        parsed(wire)


def test_end_of_the_connection_ends_a_body_without_length() -> None:
    """RFC 9112 6.3, rule 8; without TLS's goodbye it may be a cut and is not believed (9.8)."""
    start = b"HTTP/1.1 200 OK\r\n\r\nabc"
    parser = parsed(start)
    parser.eof()
    assert (parser.take(), parser.complete, parser.reusable) == (b"abc", True, False)
    with pytest.raises(PeerClosed):
        parsed(start).eof(orderly=False)


@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"])
def test_end_of_the_connection_too_early(wire: bytes) -> None:
    """Anything else is an error."""
    with pytest.raises(PeerClosed):
        parsed(wire).eof()
