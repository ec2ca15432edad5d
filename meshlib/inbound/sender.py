"""Who sent the request that runs now, and what its user's token says: context variables, set by the server adapters."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from copy import deepcopy
from typing import Any

from meshlib.config.jwt import METADATA
from meshlib.facts import Peer


class Sender:
    """Who sent a request.

    Attributes:
        peer: who is on the other side of the connection.
        metadata: what the port's filters found out, once they let the request in.
    """

    __slots__ = ("metadata", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.metadata: Mapping[str, Any] = {}


_NOBODY = Sender(Peer())
_current: ContextVar[Sender] = ContextVar("meshlib.sender", default=_NOBODY)


def peer() -> Peer:
    """The peer of the current request. Outside a request: nobody, with an empty `spiffe_id` and `address`."""
    return _current.get().peer


def claims() -> dict[str, Any]:
    """The claims of the token that the current request's user showed, as far as a RequestAuthentication had it proved.

    `scope`, `permission` and what its `spaceDelimitedClaims` name are lists of words. The dictionary is yours to change. It is
    empty outside a request, without a token, and where no RequestAuthentication applies: nothing unproved is in it.
    """
    found = _current.get().metadata.get(METADATA)
    return deepcopy(dict(list(found.values())[-1])) if found else {}


def enter(sender: Peer) -> Token[Sender]:
    """For server adapters: the request of `sender` begins. Give the token to `leave`."""
    return _current.set(Sender(sender))


def let_in(metadata: Mapping[str, Any]) -> None:
    """For server adapters: the request of the current sender was let in, and this was found out about it."""
    _current.get().metadata = metadata


def leave(token: Token[Sender]) -> None:
    """For server adapters: the request ended, in the same context in which it began."""
    _current.reset(token)
