"""External authorization, driven by hand: what is asked, and what an answer means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meshlib.config.ext_authz import BodyInCheck, ExtAuthz, GrpcAuthorizer, HttpAuthorizer
from meshlib.config.model import MatchKind, StringMatch
from meshlib.config.policy import Metadata, TextValue
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.ext_authz import AskGrpc, AskHttp, BodyStart, Heard, ReadBody, Verdict, Word
from meshlib.inbound.header_change import Change
from meshlib.inbound.visit import Denied, Permit, Question, Visit
from meshlib.runtime.admission import admit_sync

GRPC = ExtAuthz(GrpcAuthorizer("authz:9000", 1.0))
HTTP = ExtAuthz(HttpAuthorizer("authz:8000", 1.0))


def asked(authz: ExtAuthz, *answers: Any, headers: tuple[tuple[str, str], ...] = ()) -> tuple[Permit | Denied, list[Question]]:
    """The decision about a request, and the questions that led to it."""
    questions: list[Question] = []
    given = iter(answers)

    def ask(question: Question) -> Any:
        questions.append(question)
        return next(given)

    visit = Visit(Request("POST", "http", "app", "/a", headers), Peer(address="10.0.0.1:1"), "10.0.0.2:80")
    return admit_sync(InboundPort(filters=(authz,)), visit, ask), questions


def test_only_marked_requests_are_asked_about() -> None:
    """Without the mark of a policy the request enters, and nobody is asked."""
    mark = Metadata("envoy.filters.http.rbac", ("id",), TextValue(StringMatch(MatchKind.PREFIX, "istio-ext-authz")))
    answer, questions = asked(replace(GRPC, when=mark))
    assert isinstance(answer, Permit)
    assert not questions


def test_a_refusal_is_the_authorizers_answer() -> None:
    """Status, body and headers, with Envoy's flag and details."""
    answer, _ = asked(GRPC, Verdict(Word.OUT, 401, "no", told=(Change("x-why", "because"),)))
    assert isinstance(answer, Denied)
    assert (answer.status, answer.words, answer.headers) == (401, "no", (("x-why", "because"),))
    assert (answer.flag, answer.detail) == ("UAEX", "ext_authz_denied")


def test_without_an_answer_nobody_enters_unless_the_filter_fails_open() -> None:
    """Nothing, and HTTP's 5xx."""
    for authz, none in ((GRPC, None), (HTTP, None), (HTTP, Heard(503))):
        answer, _ = asked(authz, none)
        assert isinstance(answer, Denied)
        assert (answer.status, answer.flag, answer.detail) == (403, "UAEX", "ext_authz_error")
        assert isinstance(asked(replace(authz, fail_open=True), none)[0], Permit)


def test_the_body_is_shown_as_far_as_it_may_be() -> None:
    """A longer one is cut and called partial, or refused with 413; without a body nobody waits for one."""
    body, length = BodyInCheck(3, partial=True), (("content-length", "5"),)
    _, questions = asked(replace(GRPC, body=body), BodyStart(b"abcd", more=True), Verdict(Word.IN), headers=length)
    assert isinstance(questions[1], AskGrpc)
    assert (questions[0], questions[1].body) == (ReadBody(3), b"abc")
    assert questions[1].headers["x-envoy-auth-partial-body"] == "true"
    answer, _ = asked(replace(GRPC, body=BodyInCheck(3)), BodyStart(b"abcd", more=True), headers=length)
    assert isinstance(answer, Denied)
    assert answer.status == 413
    assert len(asked(replace(GRPC, body=body), Verdict(Word.IN))[1]) == 1


def test_http_is_shown_few_headers() -> None:
    """Method, path, host and authorization, unless more may be seen."""
    headers = (("authorization", "Bearer x"), ("cookie", "a=1"))
    _, (question,) = asked(HTTP, Heard(200), headers=headers)
    assert isinstance(question, AskHttp)
    assert question.request.headers == (("authorization", "Bearer x"), ("content-length", "0"))
