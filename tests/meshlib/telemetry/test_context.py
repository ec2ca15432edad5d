"""The context that travels."""

from __future__ import annotations

import re
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.errors import SettingsError
from meshlib.facts import Headers
from meshlib.telemetry.context import Propagation, RequestContext, current, enter, extract, inject, leave, outgoing
from meshlib.telemetry.traceheaders import TRACE_HEADERS

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
NEVER = Propagation(dice=lambda: 1.0)


def from_headers(*headers: tuple[str, str], propagation: Propagation = NEVER) -> RequestContext:
    return extract(headers, propagation)


def trace_of(*headers: tuple[str, str]) -> tuple[str, str, bool]:
    context = from_headers(*headers)
    return context.trace_id, context.span_id, context.sampled


def test_w3c_is_read() -> None:
    """traceparent: version, trace, parent, flags; only the first flag means something."""
    assert trace_of(("traceparent", f"00-{TRACE}-{SPAN}-01")) == (TRACE, SPAN, True)
    assert trace_of(("traceparent", f"00-{TRACE}-{SPAN}-02")) == (TRACE, SPAN, False)
    assert trace_of(("traceparent", f"cc-{TRACE}-{SPAN}-01-what-comes-later")) == (TRACE, SPAN, True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
    ],
)
def test_an_invalid_traceparent_begins_a_new_trace(value: str) -> None:
    """W3C Trace Context 4.3; tracestate is dropped with it."""
    context = from_headers(("traceparent", value), ("tracestate", "vendor=1"))
    assert context.trace_id != TRACE
    assert (context.sampled, context.tracestate) == (False, "")


def test_two_traceparent_headers_are_none() -> None:
    """Nobody can say which one is meant."""
    header = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert trace_of(header, header)[0] != TRACE


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"{TRACE}-{SPAN}-1", True),
        (f"{TRACE}-{SPAN}-0-{SPAN}", False),
        (f"{TRACE}-{SPAN}-d", True),
        (f"{TRACE}-{SPAN}", False),
    ],
)
def test_b3_in_one_header_is_read(value: str, sampled: bool) -> None:
    """trace, span, sampling, parent; the last two may be missing."""
    assert trace_of(("b3", value)) == (TRACE, SPAN, sampled)


def test_b3_in_many_headers_is_read() -> None:
    """x-b3-flags: 1 is debug, which implies sampled."""
    ids = (("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN))
    assert trace_of(*ids, ("x-b3-sampled", "1")) == (TRACE, SPAN, True)
    assert trace_of(*ids, ("x-b3-sampled", "0")) == (TRACE, SPAN, False)
    assert trace_of(*ids, ("x-b3-flags", "1")) == (TRACE, SPAN, True)


def test_short_trace_ids_of_b3_are_padded() -> None:
    """B3 knows 64-bit trace ids."""
    assert trace_of(("b3", f"{TRACE[:16]}-{SPAN}-1"))[0] == "0" * 16 + TRACE[:16]


@pytest.mark.parametrize("headers", [(("b3", "0"),), (("x-b3-sampled", "0"),)])
def test_a_refusal_of_b3_without_ids_is_followed(headers: Headers) -> None:
    """The caller decided although it has no trace."""
    assert extract(headers, Propagation(sampling=1.0)).sampled is False


def test_an_open_decision_of_b3_is_made_here() -> None:
    """No sampling state in B3 means: decide later."""
    context = extract((("b3", f"{TRACE}-{SPAN}"),), Propagation(sampling=1.0))
    assert (context.trace_id, context.sampled) == (TRACE, True)


def test_traceparent_wins_and_b3_is_spoken_on() -> None:
    """The callee may know only B3."""
    context = from_headers(("b3", f"{'1' * 32}-{SPAN}-0"), ("traceparent", f"00-{TRACE}-{SPAN}-01"))
    assert dict(inject(context))["b3"] == f"{TRACE}-{SPAN}-1"


@pytest.mark.parametrize(
    ("sampling", "dice", "sampled"), [(0.0, 0.0, False), (0.01, 0.0099, True), (0.01, 0.01, False), (1.0, 0.999999, True)]
)
def test_sampling_is_decided_at_the_root(sampling: float, dice: float, sampled: bool) -> None:
    """Both ends of the percentage are exact: 0 is never, 1 is always."""
    assert extract((), Propagation(sampling=sampling, dice=lambda: dice)).sampled is sampled


def test_one_percent_by_default() -> None:
    """Istio's default."""
    assert Propagation().sampling == 0.01


def test_a_request_id_is_kept_or_made() -> None:
    """Made as Envoy makes it: a version 4 UUID."""
    assert from_headers(("x-request-id", "mine")).request_id == "mine"
    made = from_headers().request_id
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert from_headers().request_id != made


@pytest.mark.parametrize("value", ["", "two words", "x" * 257, "a\x00b", "ä"])
def test_a_request_id_that_is_not_safe_is_replaced(value: str) -> None:
    """It goes into logs and onto the wire."""
    assert len(from_headers(("x-request-id", value)).request_id) == 36


def test_chosen_headers_travel_in_order() -> None:
    """Each value as it came, names as configured."""
    propagation = Propagation(forward=("end-user", "X-Tenant"))
    headers = (("x-tenant", "b"), ("accept", "*/*"), ("end-user", "jason"), ("x-tenant", "a"))
    forwarded = (("x-tenant", "b"), ("end-user", "jason"), ("x-tenant", "a"))
    assert extract(headers, propagation).forwarded == forwarded
    assert inject(extract(headers, propagation))[-3:] == forwarded


def test_trace_headers_in_the_list_are_not_sent_twice() -> None:
    """Istio's documentation lists them all; they travel anyway."""
    propagation = Propagation(forward=("x-request-id", "traceparent", "b3", "x-b3-traceid", "end-user"))
    context = extract((("x-request-id", "1"), ("traceparent", f"00-{TRACE}-{SPAN}-01")), propagation)
    names = [name for name, _ in inject(context)]
    assert sorted(names) == ["traceparent", "x-request-id"]


@pytest.mark.parametrize("name", ["content-length", "Host", "transfer-encoding", "proxy-authorization", "two words", ""])
def test_headers_of_one_hop_cannot_be_forwarded(name: str) -> None:
    """They would break the next request; the error shows what to write."""
    with pytest.raises(SettingsError, match=r"MESHLIB_FORWARD_HEADERS.*end-user"):
        Propagation(forward=("end-user", name))


hexadecimal = st.sampled_from("0123456789abcdef")
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
contexts = st.builds(
    RequestContext,
    request_id=visible,
    trace_id=st.text(hexadecimal, min_size=32, max_size=32).filter(lambda text: int(text, 16) > 0),
    span_id=st.text(hexadecimal, min_size=16, max_size=16).filter(lambda text: int(text, 16) > 0),
    sampled=st.booleans(),
    tracestate=st.just("") | visible,
    baggage=st.just("") | visible,
    forwarded=st.lists(st.tuples(st.just("end-user"), visible), max_size=3).map(tuple),
    b3=st.sampled_from(["", "multi", "single"]),
)


@given(contexts)
def test_what_is_injected_is_extracted(context: RequestContext) -> None:
    """The next service knows what this one knew."""
    assert extract(inject(context), NEVER) == context


@given(contexts.filter(lambda context: context.b3 != ""))
def test_b3_alone_carries_the_trace(context: RequestContext) -> None:
    """A service that knows nothing of W3C loses nothing of the trace."""
    headers = tuple((name, value) for name, value in inject(context) if name not in ("traceparent", "tracestate"))
    assert extract(headers, NEVER) == context._replace(tracestate="")


names = st.sampled_from([*TRACE_HEADERS, "x-request-id", "baggage", "end-user"])
hostile = st.text(max_size=80) | st.from_regex(r"[0-9a-fd]{0,33}-[0-9a-f]{0,17}-?[01d]?-?.{0,20}", fullmatch=True)


@given(st.lists(st.tuples(names, hostile), max_size=12).map(tuple))
def test_hostile_headers_never_raise_and_never_get_out(headers: Headers) -> None:
    """Whatever comes in, what goes out is a header value."""
    for name, value in inject(extract(headers, NEVER)):
        assert re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value), name


def test_the_current_context_is_the_one_entered() -> None:
    """And what was there before is restored."""
    outer, inner = from_headers(("x-request-id", "outer")), from_headers(("x-request-id", "inner"))
    first = enter(outer)
    second = enter(inner)
    assert current() == inner
    leave(second)
    assert current() == outer
    leave(first)
    assert current() is None


def test_leaving_in_another_context_harms_nobody() -> None:
    """A WSGI server may close a response in another context than it began it in."""
    token = copy_context().run(enter, from_headers())
    leave(token)
    assert current() is None


def test_a_request_outside_of_any_begins_a_context() -> None:
    """A script's requests have request ids and traces too."""
    assert outgoing((), NEVER) != outgoing((), NEVER)


def test_a_request_inside_of_another_carries_its_context() -> None:
    """That is what no sidecar can do."""
    context = from_headers(("x-request-id", "1"), ("end-user", "jason"), ("traceparent", f"00-{TRACE}-{SPAN}-01"))
    token = enter(context)
    try:
        assert outgoing((("accept", "*/*"),), NEVER) == context
    finally:
        leave(token)


def test_what_the_application_sets_itself_is_followed() -> None:
    """A tracing library's traceparent, a copied request id; the rest of the context still travels."""
    around = from_headers(("x-request-id", "1"), ("end-user", "jason"), ("baggage", "a=1"))
    token = enter(around)
    try:
        context = outgoing((("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-request-id", "2")), NEVER)
        assert (context.trace_id, context.sampled, context.request_id) == (TRACE, True, "2")
        assert (context.forwarded, context.baggage) == ((("end-user", "jason"),), "a=1")
        assert outgoing((("x-request-id", "2"),), NEVER) == around._replace(request_id="2")
    finally:
        leave(token)
