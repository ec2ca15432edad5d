"""gRPC's calls to meshlib's facts and back; nothing here waits or remembers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import grpc

from meshlib.config.snapshot import listener_name
from meshlib.facts import Failure, FailureKind, Headers, Request, Response

Metadatum = tuple[str, str | bytes]
Metadata = tuple[Metadatum, ...]

_BARE = Response(200)
CONTENT_TYPE = ("content-type", "application/grpc")
TRAILERS = ("te", "trailers")
_PROTOCOL_HEADERS = frozenset({CONTENT_TYPE[0], TRAILERS[0]})  # no metadata: gRPC's own

BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_NUMBERS = {code: str(number) for number, code in BY_NUMBER.items()}

# Envoy, Grpc::Utility::httpToGrpcStatus; what is not listed is UNKNOWN.
_BY_HTTP = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}

# gRPC's core says these of connections; a peer may send the same words as its own status, see `outcome`.
_CONNECT = (
    "failed to connect to all addresses",
    "connection attempt timed out",
    "DNS resolution failed",
    "empty address list",
)
_RESET = ("Stream removed", "Socket closed", "Connection reset", "RST_STREAM", "GOAWAY", "Broken pipe", "keepalive watchdog")
# grpc.aio says this, and nothing else, when the peer ends a call while a message is sent: the peer's own status is lost.
_LOST = "Internal error from Core"
_HTTP_STATUS = re.compile(r"[Rr]eceived http2 :?(?:status )?header with (?:non-200 OK )?status: ?\"?(\d{3})")


def metadata_of(given: Iterable[Any] | None) -> Metadata:
    """A call's metadata as the caller gave it, names in lower case."""
    return tuple([(str(name).lower(), value) for name, value in given]) if given else ()


def headers_of(metadata: Metadata) -> Headers:
    """Metadata as headers of the wire, where binary values are base64."""
    return tuple([(name, value if isinstance(value, str) else _base64(name, value)) for name, value in metadata])


def _base64(name: str, value: bytes) -> str:
    if name.endswith("-bin"):
        return base64.b64encode(value).rstrip(b"=").decode("ascii")
    return value.decode("latin-1")


def metadata_from(headers: Headers) -> Metadata:
    """The metadata that headers of the wire stand for: `headers_of` turned round."""
    own = (item for item in headers if item[0] not in _PROTOCOL_HEADERS)
    return tuple((name, _binary(value) if name.endswith("-bin") else value) for name, value in own)


def _binary(value: str) -> bytes:
    return base64.b64decode(value + "=" * (-len(value) % 4))


def request_of(authority: str, method: str, metadata: Metadata) -> Request:
    """A call as policy sees it: `POST /pkg.Service/Method` over HTTP/2, whose metadata are headers."""
    return Request("POST", "http", authority, method, (CONTENT_TYPE, TRAILERS, *headers_of(metadata)))


def metadata_for(metadata: Metadata, kept: Headers, added: Headers) -> Metadata:
    """The metadata of a try: the caller's own, as far as the mesh kept them, and what the mesh adds.

    Args:
        kept: the request's headers that are to be sent.
        added: headers of the mesh, in place of equal names. What gRPC could not send (it takes ASCII only) is left out.
    """
    sent = tuple([item for item in added if item[1].isascii() and item[1].isprintable()])
    if not metadata:
        return sent
    names = {name for name, _ in kept} - {name for name, _ in added}
    return (*[item for item in metadata if item[0] in names], *sent)


def code_of_http(status: int) -> grpc.StatusCode:
    """What a gRPC caller is told of an HTTP answer that is none of gRPC's."""
    return _BY_HTTP.get(status, grpc.StatusCode.UNKNOWN)


def status_of(reply_status: int, headers: Headers, body: bytes) -> tuple[grpc.StatusCode, str]:
    """Code and details of what configuration answered."""
    named = dict(headers)
    if named.get("grpc-status", "").isdigit():
        return BY_NUMBER.get(int(named["grpc-status"]), grpc.StatusCode.UNKNOWN), named.get("grpc-message", "")
    return code_of_http(reply_status), body.decode("utf-8", "replace")


def number_of(code: grpc.StatusCode) -> str:
    """A code as metrics and headers say it."""
    return _NUMBERS[code]


def response_of(initial: Metadata) -> Response:
    """The head of a response that is not the end of its call."""
    return Response(200, headers_of(initial)) if initial else _BARE


def answer(code: grpc.StatusCode, initial: Metadata) -> Response:
    """A try that the peer ended, as the retry policy sees it.

    Envoy looks at `grpc-status` in the response's headers. It is there when the server had sent nothing before (a
    trailers-only response): the core then shows no initial metadata.
    """
    if code is grpc.StatusCode.OK or initial:
        return response_of(initial)
    return Response(200, (("grpc-status", number_of(code)),))


def outcome(code: grpc.StatusCode, words: str, initial: Metadata, *, connected: bool, replayable: bool) -> Response | Failure:
    """How a try ended that got no message.

    The core gives its own failures and the peer's status in the same form. It was the core if it says so *and* its connection
    is gone: a server that hands on "failed to connect to all addresses" from behind it does so over a connection that stands.

    Args:
        words: what the core says of the call: its status' details.
        connected: whether the channel's connection stands.
    """
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and words == "Deadline Exceeded":
        return Failure(FailureKind.TIMEOUT, "no response in time", True, replayable)
    foreign = _HTTP_STATUS.search(words)
    if foreign and not initial:
        return Response(int(foreign[1]))
    if not connected and code is grpc.StatusCode.UNAVAILABLE and not initial:
        if any(text in words for text in _CONNECT):
            return Failure(FailureKind.CONNECT, words, False, replayable)
        return Failure(FailureKind.RESET, words, True, replayable)
    if "RST_STREAM" in words and not initial:
        return Failure(FailureKind.RESET, words, True, replayable)
    lost = code is grpc.StatusCode.INTERNAL and words == _LOST
    return answer(grpc.StatusCode.UNAVAILABLE if lost else code, initial)  # UNAVAILABLE: what gRPC says of a call cut short


def suspicious(code: grpc.StatusCode, words: str) -> bool:
    """Whether the state of the connection decides what these words mean; asking for it costs something in threads."""
    return code is grpc.StatusCode.UNAVAILABLE and any(text in words for text in (*_CONNECT, *_RESET))


@lru_cache(maxsize=1024)
def authority_of(target: str) -> str | None:
    """The authority that a channel's target names, `reviews:9080`; None for what is never in the mesh.

    Addresses, Unix sockets, xDS and resolvers of others are left alone.
    """
    text = target
    if target.lower().startswith("dns:"):
        text = target[4:]
        if text.startswith("//"):
            server, _, text = text[2:].partition("/")
            if server:  # a DNS server of the user's own choice
                return None
    if not text or "/" in text or "," in text or text.count(":") > 1 or _has_scheme(text):
        return None
    return text if listener_name(text) else None


def _has_scheme(text: str) -> bool:
    _, colon, rest = text.partition(":")
    return bool(colon) and not rest.isdigit()


def option(options: Sequence[tuple[str, Any]] | None, name: str) -> Any:
    """The value of a channel option; the last one counts, as in gRPC. None if it is not given."""
    return next((value for key, value in reversed(list(options or ())) if key == name), None)
