import pytest

from meshlib.outbound.reply import answer, is_grpc
from tests.support.destinations import request


@pytest.mark.parametrize(
    ("content_type", "spoken"),
    [("application/grpc", True), ("application/grpc+proto", True), ("application/grpc-web", False), ("text/plain", False)],
)
def test_who_speaks_grpc(content_type: str, spoken: bool) -> None:
    """The content type says it, with or without an encoding."""
    assert is_grpc(request(content_type=content_type)) is spoken


def test_a_grpc_caller_finds_the_outcome_in_the_headers() -> None:
    """Status 200, the gRPC status that says the same, the words as message."""
    status, headers, body = answer(request(content_type="application/grpc"), 404, b"no route")
    assert (status, dict(headers), body) == (
        200,
        {"content-type": "application/grpc", "grpc-status": "12", "grpc-message": "no route"},
        b"",
    )


def test_head_gets_no_body() -> None:
    """But the headers of the answer that GET would get."""
    assert answer(request(method="HEAD"), 503, b"words") == (
        503,
        (("content-length", "5"), ("content-type", "text/plain")),
        b"",
    )


def test_head_of_a_grpc_caller_gets_no_words() -> None:
    """Envoy takes the message for a body."""
    _, headers, _ = answer(request(method="HEAD", content_type="application/grpc"), 503, b"words")
    assert "grpc-message" not in dict(headers)
