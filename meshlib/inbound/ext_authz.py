"""May it enter? Somebody else says so. Envoy: ext_authz.cc, ext_authz_grpc_impl.cc, ext_authz_http_impl.cc.

    not marked             -> in: no policy of CUSTOM holds
    the body               -> read, if the authorizer is to see it; too long: 413
    lets in                -> in, with the headers that it gives
    refuses                -> its status, body and headers
    no answer, 5xx, error  -> in where the filter fails open, else 403

What the filter changes, later filters see: they decide on what the application gets.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from meshlib.config.ext_authz import BodyInCheck, ExtAuthz, GrpcAuthorizer, HttpAuthorizer, Names
from meshlib.config.model import MatchKind, StringMatch
from meshlib.facts import Headers, Peer, Request
from meshlib.inbound.header_change import SAME_QUERY, Change, Query, Way, changed, headers_of
from meshlib.inbound.reading import reader
from meshlib.inbound.value_match import found_value, value_fits
from meshlib.inbound.visit import Answer, Denied, Question, Visit
from meshlib.match import text_matches

NAMESPACE = "envoy.filters.http.ext_authz"
UNAUTHORIZED = "UAEX"
PARTIAL = "x-envoy-auth-partial-body"
TO_REMOVE = "x-envoy-auth-headers-to-remove"
FAILED_OPEN = "x-envoy-auth-failure-mode-allowed"


@dataclass(frozen=True, slots=True)
class ReadBody(Question):
    """Read the request's body, and keep it for the application. The answer is a `BodyStart`.

    Args:
        most: bytes to wait for; it may be one more, which tells that the body goes on.
    """

    most: int


@dataclass(frozen=True, slots=True)
class BodyStart:
    """What was read of a body. Args: more: there is more of it than was asked for."""

    data: bytes = b""
    more: bool = False


@dataclass(frozen=True, slots=True)
class AskGrpc(Question):
    """Ask by envoy.service.auth.v3. The answer is a `Verdict`, or None: there is none.

    Args:
        headers: lower-case names, pseudo headers too; each once.
        body: None: it is not shown.
        metadata: namespaces of the dynamic metadata.
    """

    service: GrpcAuthorizer
    request: Request
    peer: Peer
    local_address: str
    now: float
    headers: Mapping[str, str]
    body: bytes | None = None
    as_bytes: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AskHttp(Question):
    """Ask by an HTTP request. The answer is a `Heard`, or None: there is none."""

    service: HttpAuthorizer
    request: Request
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Heard:
    """What an HTTP authorizer answered. Args: headers: names in lower case."""

    status: int
    headers: Headers = ()
    body: bytes = b""


class Word(Enum):
    """What an authorizer says."""

    IN = "lets in"
    OUT = "refuses"
    ERROR = "cannot tell"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An authorizer's answer.

    Args:
        status: of the answer to the client; 0: the filter's own.
        body: the same.
        changes, removed, query: for the application, if the request may enter.
        told: for the client: beside the application's headers, or of the refusal.
        metadata: for later filters.
    """

    word: Word
    status: int = 0
    body: str = ""
    changes: tuple[Change, ...] = ()
    removed: tuple[str, ...] = ()
    query: Query = SAME_QUERY
    told: tuple[Change, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def ask(authz: ExtAuthz, visit: Visit) -> Generator[Question, Answer, Denied | None]:
    """Ask the authorizer about a request that was marked for it."""
    when = authz.when
    if when is not None and value_fits(when.value, found_value(visit.metadata, when)) == when.invert:
        return None
    body: BodyStart | None = None
    if authz.body is not None and _has_body(visit.request):
        body = yield ReadBody(authz.body.most)
        if body.more and not authz.body.partial:
            return _TOO_LARGE
    verdict = yield from _verdict(authz, visit, body)
    if verdict.metadata:
        visit.metadata[NAMESPACE] = dict(verdict.metadata)
    if verdict.word is Word.IN:
        visit.request = changed(visit.request, verdict.changes, verdict.removed, verdict.query)
        visit.response_headers += headers_of(verdict.told)
        return None
    if verdict.word is Word.OUT:
        return _refused(authz, verdict)
    return _unanswered(authz, visit, verdict)


def _verdict(authz: ExtAuthz, visit: Visit, body: BodyStart | None) -> Generator[Question, Answer, Verdict]:
    service = authz.service
    if isinstance(service, HttpAuthorizer):
        heard = yield AskHttp(service, *_http_question(authz, service, visit, body))
        return _NO_ANSWER if heard is None else verdict_of(service, heard)
    told = yield AskGrpc(
        service,
        visit.request,
        visit.peer,
        visit.local_address,
        visit.now,
        _shown(visit, authz.allowed, _body_headers(authz.body, body)),
        None if body is None else _cut(body, authz.body),
        authz.body is not None and authz.body.as_bytes,
        {name: visit.metadata[name] for name in authz.namespaces if name in visit.metadata},
    )
    return _NO_ANSWER if told is None else told


def _has_body(request: Request) -> bool:
    """Envoy waits for no body where there is none, and not for those of upgrades."""
    if request.header("upgrade"):
        return False
    length = request.header("content-length")
    return request.header("transfer-encoding") is not None or (length or "0").strip() != "0"


def _cut(body: BodyStart, settings: BodyInCheck | None) -> bytes:
    return body.data[: settings.most] if settings is not None else body.data


def _body_headers(settings: BodyInCheck | None, body: BodyStart | None) -> Headers:
    if settings is None or body is None:
        return ()
    return ((PARTIAL, "true" if body.more else "false"),)


# What is shown


def _shown(visit: Visit, allowed: Names | None, added: Headers) -> dict[str, str]:
    """Envoy's map of headers: several lines of one name are joined."""
    request = visit.request
    names = [":authority", ":method", ":path", ":scheme", "x-forwarded-proto", "x-forwarded-client-cert"]
    names += [name for name, _ in request.headers if name != PARTIAL]
    wanted = [name for name in dict.fromkeys(names) if allowed is None or fits(allowed, name)]
    found = {name: values for name in wanted if (values := reader(name)(visit))}
    return {**{name: ",".join(values) for name, values in found.items()}, **dict(added)}


_ALWAYS_SHOWN = tuple(StringMatch(MatchKind.EXACT, name) for name in (":method", ":path", ":authority", "authorization"))


def _http_question(authz: ExtAuthz, service: HttpAuthorizer, visit: Visit, body: BodyStart | None) -> tuple[Request, bytes]:
    allowed = (*(authz.allowed or ()), *_ALWAYS_SHOWN)
    shown = _shown(visit, allowed, _body_headers(authz.body, body))
    data = b"" if body is None else _cut(body, authz.body)
    own = dict(service.added)
    kept = [(name, value) for name, value in shown.items() if name[0] != ":" and name not in ("content-length", *own)]
    request = Request(
        method=shown[":method"],
        scheme="http",
        authority=own.pop("host", shown[":authority"]),
        path=service.path_prefix + shown[":path"],
        headers=(*kept, *own.items(), ("content-length", str(len(data)))),
    )
    return request, data


def fits(names: Names, name: str) -> bool:
    """Whether a header is meant."""
    return any(text_matches(one, name) for one in names)


# What is heard

_ALWAYS_TOLD = frozenset({"www-authenticate", "location"})
# Of the authorizer's own response, or written by the server anyway.
_NOT_TOLD = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "date", "server", TO_REMOVE})


def verdict_of(service: HttpAuthorizer, heard: Heard) -> Verdict:
    """The meaning of an HTTP answer: 200 lets in, 5xx is an error, everything else is the answer to the client."""
    if heard.status >= 500:
        return _NO_ANSWER
    if heard.status != 200:
        told = [item for item in heard.headers if item[0] not in _NOT_TOLD and _is_told(service, item[0])]
        changes = tuple(Change(name, value, Way.ADD) for name, value in told)
        return Verdict(Word.OUT, heard.status, heard.body.decode("utf-8", "surrogateescape"), told=changes)
    removed = (name.strip().lower() for key, value in heard.headers if key == TO_REMOVE for name in value.split(","))
    given = [item for item in heard.headers if item[0] != TO_REMOVE]
    return Verdict(
        Word.IN,
        changes=(*_chosen(given, service.to_application, Way.SET), *_chosen(given, service.appended, Way.ADD)),
        removed=tuple(filter(None, removed)),
        told=tuple(_chosen(given, service.to_client_on_success, Way.ADD)),
    )


def _is_told(service: HttpAuthorizer, name: str) -> bool:
    return not service.to_client or name in _ALWAYS_TOLD or fits(service.to_client, name)


def _chosen(headers: Iterable[tuple[str, str]], names: Names, way: Way) -> Iterable[Change]:
    return [Change(name, value, way) for name, value in headers if fits(names, name)]


_NO_ANSWER = Verdict(Word.ERROR)

_TOO_LARGE = Denied(
    "the body is longer than the authorizer may be shown", 413, "Payload Too Large", detail="request_payload_too_large"
)


def _refused(authz: ExtAuthz, verdict: Verdict) -> Denied:
    return Denied(
        f"the authorizer {authz.service.target} refuses it",
        status=verdict.status or 403,
        body=verdict.body,
        headers=headers_of(verdict.told),
        flag=UNAUTHORIZED,
        detail="ext_authz_denied",
    )


def _unanswered(authz: ExtAuthz, visit: Visit, verdict: Verdict) -> Denied | None:
    if authz.fail_open:
        if authz.marked:
            visit.request = replace(visit.request, headers=(*visit.request.headers, (FAILED_OPEN, "true")))
        return None
    return Denied(
        f"the authorizer {authz.service.target} gave no answer, and nobody enters without one",
        status=verdict.status or authz.error_status,
        body=verdict.body,
        headers=headers_of(verdict.told),
        flag=UNAUTHORIZED,
        detail="ext_authz_error",
    )
