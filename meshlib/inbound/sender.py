"""Who sent the request that runs now: a context variable, set by the server adapters for the length of a request."""

from __future__ import annotations

from contextvars import ContextVar, Token

from meshlib.facts import Peer

_NOBODY = Peer()
_current: ContextVar[Peer] = ContextVar("meshlib.peer", default=_NOBODY)


def peer() -> Peer:
    """The peer of the current request. Outside a request: nobody, with an empty `spiffe_id` and `address`."""
    return _current.get()


def enter(sender: Peer) -> Token[Peer]:
    """For server adapters: the request of `sender` begins. Give the token to `leave`."""
    return _current.set(sender)


def leave(token: Token[Peer]) -> None:
    """For server adapters: the request ended, in the same context in which it began."""
    _current.reset(token)
