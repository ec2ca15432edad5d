"""A body whose beginning was read for an authorizer reaches the application whole."""

from __future__ import annotations

import io

from meshlib_wsgi._body import Replayed


def replayed() -> Replayed:
    """`one`, newline, `two`, newline, `three`, of which five bytes were read already."""
    rest = io.BytesIO(b"one\ntwo\nthree")
    return Replayed(rest.read(5), rest)


def test_all_ways_to_read_give_the_whole_body() -> None:
    """At once, in pieces, line by line."""
    assert replayed().read() == b"one\ntwo\nthree"
    body = replayed()
    assert [body.read(3), body.read(4), body.read(None)] == [b"one", b"\ntwo", b"\nthree"]
    assert list(replayed()) == replayed().readlines() == [b"one\n", b"two\n", b"three"]
    body = replayed()
    assert [body.readline(2), body.readline(), body.readline(3), body.readline()] == [b"on", b"e\n", b"two", b"\n"]
