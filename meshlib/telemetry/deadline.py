"""Until when an answer is wanted: the one limit that travels from the request being served to the requests it causes.

An incoming call says how long its caller waits: `grpc-timeout`, or for HTTP the header below, which our clients and Envoy's
router write on every request that has a timeout. Whatever is sent on behalf of that request is given what is left of it, or
its own timeout if that is shorter; after that moment nobody reads the answer.

Envoy, a separate process, cannot know which incoming request an outgoing one belongs to; a library can.

Rule: what an HTTP caller's route allows ends the gRPC calls made for it, not the HTTP requests. Those would end at the very
moment at which the caller gives up, and whether it saw its own timeout or our answer about ours would be chance; behind
Istio's proxies it is always the former. A gRPC caller's deadline ends both: gRPC means it so.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

from meshlib.facts import Headers

EXPECTED = "x-envoy-expected-rq-timeout-ms"

Moment = float
"""A value of the monotonic clock, seconds."""

_current: ContextVar[tuple[Moment | None, bool]] = ContextVar("meshlib_deadline", default=(None, False))


def current() -> Moment | None:
    """When the caller of the request being served stops waiting; None: never, or nothing is being served."""
    return _current.get()[0]


def of_call() -> Moment | None:
    """The same, if the caller said it as a gRPC call; None for what an HTTP request says."""
    moment, called = _current.get()
    return moment if called else None


def enter(moment: Moment | None, *, called: bool = True) -> Token[tuple[Moment | None, bool]]:
    """Make a deadline the current one. Give the token to `leave`.

    Args:
        called: a gRPC call says so; False: an HTTP request.
    """
    return _current.set((moment, called))


def leave(token: Token[tuple[Moment | None, bool]]) -> None:
    """Restore what was current before `enter`."""
    try:
        _current.reset(token)
    except ValueError:  # a response finished in another context than it began in, as in `context.leave`
        return


def expected_seconds(headers: Headers) -> float | None:
    """How long the sender of a request waits, from its headers; None if it does not say, or says nonsense.

    Args:
        headers: names in lower case.
    """
    for name, value in headers:
        if name == EXPECTED:
            # Zero is what Envoy writes for a timeout that is switched off.
            return int(value) / 1000 or None if value.isascii() and value.isdigit() else None
    return None


def earlier(one: Moment | None, other: Moment | None) -> Moment | None:
    """The one that comes first, None being never."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
