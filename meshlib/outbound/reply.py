"""How an answer of the mesh itself is put, by who asked (Envoy: Http::Utility::sendLocalReply).

Rule 1: a gRPC caller gets status 200 and the outcome as `grpc-status` in the headers, without a body.
Rule 2: everybody else gets the status and the words as plain text.
Rule 3: HEAD gets the same headers and no body; a gRPC caller's HEAD, which Envoy knows, no words either.
"""

from __future__ import annotations

from meshlib.facts import Headers, Request

_GRPC_TYPE = "application/grpc"

# Envoy: Grpc::Utility::httpToGrpcStatus, after gRPC's http-grpc-status-mapping.md.
_GRPC_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_UNKNOWN = 2


def is_grpc(request: Request) -> bool:
    """Whether the caller speaks gRPC."""
    content_type = request.header("content-type") or ""
    return content_type == _GRPC_TYPE or content_type.startswith(f"{_GRPC_TYPE}+")


def grpc_status_of(status: int) -> int:
    """The gRPC status that says the same as an HTTP status."""
    return _GRPC_STATUSES.get(status, _UNKNOWN)


# Envoy: Grpc::Utility::grpcToHttpStatus; what is not listed is 500.
_HTTP_STATUSES = {
    "0": 200, "1": 499, "3": 400, "4": 504, "5": 404, "6": 409, "7": 403, "8": 429, "9": 400, "10": 409, "11": 400,
    "12": 501, "14": 503, "16": 401,
}  # fmt: skip


def http_status_of(grpc_status: str) -> int:
    """The HTTP status that says the same as a gRPC status."""
    return _HTTP_STATUSES.get(grpc_status, 500)


def answer(request: Request, status: int, words: bytes, grpc_status: int | None = None) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an answer.

    Args:
        words: for people; may be empty.
        grpc_status: if it is not the one that follows from `status`.
    """
    if is_grpc(request):
        code = grpc_status_of(status) if grpc_status is None else grpc_status
        said = (("grpc-message", words.decode("ascii")),) if words and request.method != "HEAD" else ()
        return 200, (("content-type", _GRPC_TYPE), ("grpc-status", str(code)), *said), b""
    return plain(request, status, words)


def plain(request: Request, status: int, words: bytes) -> tuple[int, Headers, bytes]:
    """The same for a caller of whom it is not known yet what it speaks."""
    kind = (("content-type", "text/plain"),) if words else ()
    return status, (("content-length", str(len(words))), *kind), b"" if request.method == "HEAD" else words
