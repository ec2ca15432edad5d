"""What a decision may know, gathered once by an adapter or a transport, frozen from then on.

Header names are lower case. Values are text; adapters decode bytes as latin-1, as HTTP/1.1 libraries do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

Headers = tuple[tuple[str, str], ...]

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def ascii_lower(text: str) -> str:
    """Text in lower case as HTTP and Envoy see case: letters beyond ASCII are bytes to them and stay."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as policy sees it.

    Args:
        method: upper case, as in `GET`.
        scheme: `http` or `https`.
        authority: host and port as in the Host header, `reviews:9080`; the port may be missing.
        path: path and query as in the request line, `/reviews/0?x=1`.
        headers: in order, names in lower case, without `host`.
    """

    method: str
    scheme: str
    authority: str
    path: str
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by a comma as HTTP allows; None if absent.

        Not for matching: Envoy 1.40 compares each line for itself, and so does `meshlib.match`.
        Pseudo headers `:method`, `:authority`, `:path` and `:scheme` are headers too, as in Envoy.
        """
        if name.startswith(":"):
            return _PSEUDO[name](self) if name in _PSEUDO else None
        values = [value for key, value in self.headers if key == name]
        return ",".join(values) if values else None


_PSEUDO = {
    ":method": lambda request: request.method,
    ":authority": lambda request: request.authority,
    ":path": lambda request: request.path,
    ":scheme": lambda request: request.scheme,
}


@dataclass(frozen=True, slots=True)
class Response:
    """The head of a response, as far as decisions need it."""

    status: int
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by a comma; None if absent."""
        values = [value for key, value in self.headers if key == name]
        return ",".join(values) if values else None


class FailureKind(Enum):
    """Why a try ended without a response. The value is Envoy's response flag."""

    CONNECT = "UF"  # no connection or no TLS: the request has not left
    RESET = "UC"  # closed or reset; how far the request got is in Failure.sent
    TIMEOUT = "UT"  # the time given to this try passed
    PROTOCOL = "UPE"  # the peer's bytes are not HTTP
    OVERFLOW = "UO"  # a circuit breaker is open: the request has not left


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that ended without a response.

    Args:
        kind: what happened.
        detail: for people: the operating system's or the TLS library's words.
        sent: whether any byte of the request may have reached the peer's application.
        replayable: whether the request could be sent again: its body is at hand or was not touched.
    """

    kind: FailureKind
    detail: str
    sent: bool = True
    replayable: bool = True


class DryRun(NamedTuple):
    """What policies on trial (`istio.io/dry-run`) would have done with a request.

    Args:
        action: of the policies, in small letters: `allow` or `deny`.
        result: `allowed` or `denied`.
        policy: the one that matched; empty: none did.
    """

    action: str
    result: str
    policy: str = ""

    def __str__(self) -> str:
        return f"shadow {self.result}, matched policy {self.policy or 'none'}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other side of a connection.

    Args:
        spiffe_id: `spiffe://cluster.local/ns/default/sa/reviews`, or empty: the peer showed no certificate (plain text).
        address: `ip:port` of the other side.
        certificate_hash: SHA-256 of the peer's leaf (DER), lower-case hex, empty without one; goes into XFCC's `Hash`.
        server_name: what it asked for in its TLS hello (SNI), empty without one.
    """

    spiffe_id: str = ""
    address: str = ""
    certificate_hash: str = ""
    server_name: str = ""

    @property
    def secured(self) -> bool:
        """Whether the connection is mutual TLS."""
        return bool(self.spiffe_id)
