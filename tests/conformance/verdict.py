"""In what two tellings of one request differ, and which differences are wanted.

Every wanted difference is a named rule below; docs/conformance.md has the same names with the reasons, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from meshlib.match import ONE_LINE
from meshlib.outbound.reply import grpc_status_of
from tests.conformance.cases import Asked
from tests.conformance.echo import ATTEMPT, CASE, SCRIPT, Arrival
from tests.conformance.seen import Headers, Seen

EXPECTED = "x-envoy-expected-rq-timeout-ms"
ORIGIN = "x-origin"


@dataclass(frozen=True, slots=True)
class Difference:
    """One aspect, and both tellings of it."""

    aspect: str
    theirs: object
    ours: object

    def __str__(self) -> str:
        return f"{self.aspect}: Envoy {self.theirs!r}, we {self.ours!r}"


def differences(asked: Asked, theirs: Seen, ours: Seen) -> list[Difference]:
    """All that differs and is not wanted."""
    return [
        Difference(aspect, their, our)
        for aspect, their, our in _aspects(asked, theirs, ours)
        if their != our and not any(rule(aspect, asked, theirs, ours) for rule in RULES.values())
    ]


def _aspects(asked: Asked, theirs: Seen, ours: Seen) -> Iterator[tuple[str, object, object]]:
    yield "status", theirs.status, ours.status
    yield "flags", sorted(theirs.flags), sorted(ours.flags)
    yield "route", theirs.route, ours.route
    yield "cluster", theirs.cluster, ours.cluster
    if theirs.cluster == ours.cluster:
        yield "endpoints of the cluster", sorted(theirs.endpoints), sorted(ours.endpoints)
    yield "tries outside of the cluster", _strays(theirs), _strays(ours)
    yield "attempts", theirs.attempts, ours.attempts
    ours_once = without_replays(ours.tries)
    yield "tries that arrived", len(theirs.tries), len(ours_once)
    for number, (their, our) in enumerate(zip(theirs.tries, ours_once, strict=False), 1):
        yield f"method of try {number}", their.method, our.method
        yield f"path of try {number}", their.target, our.target
        yield f"authority of try {number}", their.values("host"), our.values("host")
        yield f"body of try {number}", their.body, our.body
        yield f"time-out told with try {number}", _told_timeout(their, number), _told_timeout(our, number)
        yield f"headers of try {number}", _request_headers(their.headers), _request_headers(our.headers)
    yield "response headers", _response_headers(theirs.headers), _response_headers(ours.headers)
    yield "response body", theirs.body, ours.body
    yield "response complete", theirs.whole, ours.whole


def _strays(seen: Seen) -> list[int]:
    """Ports that were tried and are no endpoint of the cluster."""
    return sorted({one.port for one in seen.tries} - {port for _, port, _ in seen.endpoints})


def without_replays(tries: tuple[Arrival, ...]) -> tuple[Arrival, ...]:
    """Rule "replay-on-dead-connection": a try that was sent again because its connection turned out dead counts once."""
    return tuple({tuple(one.values(ATTEMPT)): one for one in tries}.values())


def _told_timeout(one: Arrival, number: int) -> str:
    """Exact for the first try; what is left for later ones depends on the moment."""
    told = ",".join(one.values(EXPECTED))
    return told if number == 1 else "some" if told else ""


HOP_HEADERS: Mapping[str, frozenset[str]] = {
    # What the test itself adds.
    "": frozenset({"host", CASE, SCRIPT, ORIGIN, EXPECTED}),
    "framing-is-each-hops-own": frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "te"}),
    "tracing-is-each-hops-own": frozenset({"x-request-id", "traceparent", "tracestate", "baggage"}),
    "no-internal-mark": frozenset({"x-envoy-internal"}),
    "no-proxy-signature": frozenset({"date", "server", "x-envoy-upstream-service-time"}),
}
"""Headers that are not compared, by the name of the rule."""

_UNCOMPARED = frozenset().union(*HOP_HEADERS.values())
_IN_RESPONSES = ("framing-is-each-hops-own", "no-proxy-signature")
_UNCOMPARED_IN_RESPONSES = frozenset().union(*(HOP_HEADERS[name] for name in _IN_RESPONSES))


def _request_headers(headers: Headers) -> list[tuple[str, str]]:
    lines: dict[str, list[str]] = {}
    for name, value in headers:
        lines.setdefault(name.lower(), []).append(value)
    return sorted(
        (name, value)
        for name, values in lines.items()
        if name not in _UNCOMPARED
        for value in ([",".join(filter(None, values))] if name in ONE_LINE else values)  # rule "one-line-headers"
    )


def _response_headers(headers: Headers) -> list[tuple[str, str]]:
    return sorted((name, value) for name, value in headers if name not in _UNCOMPARED_IN_RESPONSES)


Rule = Callable[[str, Asked, Seen, Seen], bool]


def _exception_for_local_reply(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    return ours.raised and aspect in ("response headers", "response body", "response complete")


def _exception_for_grpc_reply(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    told = dict(theirs.headers).get("grpc-status")
    return aspect == "status" and ours.raised and theirs.status == 200 and told == str(grpc_status_of(ours.status))


def _unknown_cluster_unnamed(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    return aspect == "cluster" and not theirs.cluster and bool({"NC", "FI"} & theirs.flags & ours.flags)


def _attempt_without_endpoint(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    return aspect == "attempts" and "UH" in theirs.flags & ours.flags and theirs.attempts == ours.attempts + 1


def _refused_before_logged(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    refused = theirs.status == ours.status == 400 and ours.note == "http1.connection_header_rejected"
    return refused and (aspect == "flags" or (aspect == "response body" and asked.method == "HEAD"))


def _refused_before_routed(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    refused = theirs.note == ours.note == "path_normalization_failed"
    return refused and aspect in ("route", "cluster") and not (ours.route or ours.cluster)


def _callers_told_timeout(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    given = asked.header(EXPECTED)
    told = aspect.startswith("time-out told with try ") and given is not None
    return told and not ours.tries[0].values(EXPECTED) and theirs.tries[0].values(EXPECTED) == [given]


def _no_forwarded_proto(aspect: str, asked: Asked, theirs: Seen, ours: Seen) -> bool:
    if not aspect.startswith("headers of try") or asked.header("x-forwarded-proto") is not None:
        return False
    number = int(aspect.rpartition(" ")[2]) - 1
    added = ("x-forwarded-proto", "http")
    kept = [header for header in _request_headers(theirs.tries[number].headers) if header != added]
    return kept == _request_headers(without_replays(ours.tries)[number].headers)


RULES: dict[str, Rule] = {
    "exception-for-local-reply": _exception_for_local_reply,
    "exception-for-grpc-reply": _exception_for_grpc_reply,
    "unknown-cluster-unnamed": _unknown_cluster_unnamed,
    "attempt-without-endpoint": _attempt_without_endpoint,
    "refused-before-logged": _refused_before_logged,
    "refused-before-routed": _refused_before_routed,
    "callers-told-timeout": _callers_told_timeout,
    "no-forwarded-proto": _no_forwarded_proto,
}

BUILT_IN = frozenset({"replay-on-dead-connection", "one-line-headers", "orders-of-the-caller"})
"""Rules that are followed elsewhere: in how tries are counted, headers compared, Envoy set up."""


def rule_names() -> frozenset[str]:
    """All rules by name, as docs/conformance.md lists them."""
    return frozenset({*RULES, *filter(None, HOP_HEADERS), *BUILT_IN})
