"""What is refused or taken away before anybody decides on a request, as by Envoy's HTTP/1.1 codec."""

from __future__ import annotations

import pytest

from meshlib.config.policy import Normalization
from meshlib.facts import Headers, Peer, Request
from meshlib.inbound.normalize import normalize
from meshlib.inbound.target import place_of
from meshlib.inbound.visit import Visit

HOW = Normalization(normalize=True)


def visit(*headers: tuple[str, str], authority: str = "reviews:9080", method: str = "GET") -> Visit:
    return Visit(Request(method, "http", authority, "/reviews/0", headers), Peer(address="10.0.0.8:51234"))


def left_of(*headers: tuple[str, str]) -> Headers | int:
    """The headers that policies and the application see, or the status of a refusal."""
    asked = visit(*headers)
    denied = normalize(HOW, asked)
    return denied.status if denied else asked.request.headers


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        ("reviews:9080", None),
        ("[::1]:9080", None),
        ("joe@reviews", None),
        ("%72eviews", None),
        ("", 400),
        ("reviews,evil", 400),
        ("reviews/admin", 400),
        ("reviews#x", 400),
        ("reviews evil", 400),
        ("rev\u00efews", 400),
    ],
)
def test_a_host_has_the_characters_of_one(authority: str, status: int | None) -> None:
    """Envoy: authorityIsValid; two names are none (ours)."""
    denied = normalize(HOW, visit(authority=authority))
    assert (denied.status if denied else None) == status


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ((("connection", "x-team"), ("x-team", "a"), ("x-role", "b")), (("x-role", "b"),)),
        ((("connection", "Keep-Alive, X-Team"), ("x-team", "a")), (("connection", "Keep-Alive"),)),
        ((("connection", "x-team"), ("connection", "x-role"), ("x-team", "a"), ("x-role", "b")), ()),
        ((("connection", "close, upgrade"),), (("connection", "close, upgrade"),)),
        ((("connection", "te"), ("te", "gzip, Trailers")), (("connection", "te"), ("te", "gzip, Trailers"))),
        ((("connection", "te"), ("te", "gzip")), ()),
        ((("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")), ()),
        ((("connection", "Upgrade"), ("upgrade", "WebSocket")), (("connection", "Upgrade"), ("upgrade", "WebSocket"))),
        ((("connection", "upgrade"), ("upgrade", "tunnel")), 403),
        ((("connection", "X-Forwarded-For"),), 400),
        ((("connection", ":authority"),), 400),
        ((("connection", "host"),), 400),
        ((("connection", ",".join("abcdefghij")),), 400),
        ((("transfer-encoding", "Chunked"),), (("transfer-encoding", "Chunked"),)),
        ((("transfer-encoding", "gzip, chunked"),), 501),
    ],
)
def test_headers_of_the_connection(headers: Headers, left: Headers | int) -> None:
    """What Connection names is gone; what it may not name, and what cannot be carried, is refused."""
    assert left_of(*headers) == left


def test_a_connect_with_a_path_is_refused() -> None:
    """It would be a tunnel, and a handler for any method would be called."""
    denied = normalize(HOW, visit(method="CONNECT"))
    assert denied is not None
    assert denied.status == 400


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("/reviews/0", ("reviews", "/reviews/0")),
        ("HTTP://details:80/0?x=1", ("details:80", "/0?x=1")),
        ("http://joe:secret@details/0", ("details", "/0")),
        ("http://details?x", ("details", "?x")),
        ("http://details#x", ("details", "#x")),
        ("http://details:90x/", ("reviews", "http://details:90x/")),
        ("http://joe@[::1]:80", ("[::1]:80", "/")),
        ("details:80", ("reviews", "details:80")),
    ],
)
def test_a_request_line_may_name_its_host(target: str, place: tuple[str, str]) -> None:
    """Whatever the Host header says; a user's name is no part of a host."""
    assert place_of(target, "reviews") == place


@pytest.mark.parametrize(
    ("method", "path"),
    [("get", "/"), ("BREW", "/"), ("GET", "/p\u00e4th"), ("GET", "/a?\xe4"), ("GET", "/\x7f"), ("GET", "/a b")],
)
def test_what_is_no_request_line_is_refused(method: str, path: str) -> None:
    """A method that HTTP does not have, a target of other than visible ASCII: servers differ about them."""
    denied = normalize(HOW, Visit(Request(method, "http", "reviews", path, ()), Peer()))
    assert denied is not None
    assert denied.status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((("content-length", "0"),), None),
        ((("transfer-encoding", "chunked"),), None),
        ((("content-length", "+0"),), 400),
        ((("content-length", ""),), 400),
        ((("content-length", "0"), ("content-length", "0")), 400),
        ((("content-length", "0"), ("transfer-encoding", "chunked")), 400),
        ((("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")), 400),
    ],
)
def test_a_body_has_one_length(headers: Headers, status: int | None) -> None:
    """Who counts otherwise than the server takes the rest of a body for a request."""
    found = left_of(*headers)
    assert (found if isinstance(found, int) else None) == status
