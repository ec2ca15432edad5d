"""What travels from an incoming request to the outgoing ones by itself: request id, trace, baggage, chosen headers.

Rule 1: one ContextVar with one frozen value; tasks and copied contexts inherit it, nothing mutates it.
Rule 2: whether a request is traced is decided once, where the trace begins, and followed by everybody after.
Rule 3: a span id names a span that exists. While nobody records a span of ours, the caller's ids are passed on as they came
        (W3C Trace Context 3.4 allows it), so that a trace has no holes.
Rule 4: hostile headers never raise; what is not safe to send on is dropped.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import NamedTuple

from meshlib.errors import SettingsError
from meshlib.facts import Headers
from meshlib.telemetry.traceheaders import TRACE_HEADERS, B3Form, TraceParent, parse, render

_OWN_HEADERS = frozenset({*TRACE_HEADERS, "x-request-id", "baggage"})
_TRACE_IDS = frozenset({"traceparent", "b3", "x-b3-traceid"})
# RFC 9110 7.6.1 and the framing headers: they belong to one connection and one message.
_ONE_HOP = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_REQUEST_ID = re.compile(r"[!-~]{1,256}")
_SAFE = re.compile(r"[\t -~\x80-\xff]*")
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_BAGGAGE = re.compile(r"[\t -~]{1,8192}")  # W3C Baggage 3.3.2: 8192 bytes must travel; more may be dropped


class RequestContext(NamedTuple):
    """One request's belonging: to a user's click, to a trace.

    Args:
        trace_id, span_id: 32 and 16 lower-case hex digits; `span_id` is the parent of whatever happens next.
        sampled: whether spans are recorded, by everybody.
        tracestate, baggage: as they came; empty if none.
        forwarded: headers of the configured list, as they came.
        b3: the form of B3 the caller spoke, which we speak on beside W3C's; empty if none.
    """

    request_id: str
    trace_id: str
    span_id: str
    sampled: bool = False
    tracestate: str = ""
    baggage: str = ""
    forwarded: Headers = ()
    b3: B3Form = ""


@dataclass(frozen=True, slots=True)
class Propagation:
    """What to carry on, and how often to begin a trace.

    Args:
        forward: names of headers that travel unchanged, lower case; trace headers are carried anyway.
        sampling: share of new traces that are recorded, 0.0 to 1.0. Istio's default is 1 %.
        dice: a number in [0, 1).
        bits: random bits of a given count.

    Raises:
        SettingsError: a name in `forward` is no header name or belongs to one connection only.
    """

    forward: Collection[str] = ("end-user",)
    sampling: float = 0.01
    dice: Callable[[], float] = random.random
    bits: Callable[[int], int] = random.getrandbits
    _forward: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        names = frozenset(name.strip().lower() for name in self.forward)
        for name in sorted(names):
            if name in _ONE_HOP or name.startswith("proxy-") or not _NAME.fullmatch(name):
                raise SettingsError(
                    f"MESHLIB_FORWARD_HEADERS: {name!r} cannot be forwarded; list names as in end-user,x-tenant"
                )
        object.__setattr__(self, "_forward", names - _OWN_HEADERS)

    def collect(self, headers: Headers) -> tuple[dict[str, str], Headers]:
        """The headers that mean something to us (equal names joined by commas), and those to forward."""
        found: dict[str, str] = {}
        forwarded: list[tuple[str, str]] = []
        for header in headers:
            name, value = header
            if name in _OWN_HEADERS:
                found[name] = f"{found[name]},{value}" if name in found else value
            elif name in self._forward and _SAFE.fullmatch(value):
                forwarded.append(header)
        return found, tuple(forwarded)

    def sample(self) -> bool:
        """Whether a trace that begins here is recorded."""
        return self.dice() < self.sampling

    def trace_id(self) -> str:
        """A new trace id; never all zero."""
        return f"{self.bits(128) or 1:032x}"

    def span_id(self) -> str:
        """A new span id; never all zero."""
        return f"{self.bits(64) or 1:016x}"

    def request_id(self) -> str:
        """A new request id: a version 4 UUID, as Envoy makes."""
        digits = f"{self.bits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"


def extract(headers: Headers, propagation: Propagation) -> RequestContext:
    """The context that a request brings; ids and the sampling decision are made here where it brings none.

    Args:
        headers: names in lower case.
    """
    found, forwarded = propagation.collect(headers)
    if not found:
        return RequestContext(
            propagation.request_id(),
            propagation.trace_id(),
            propagation.span_id(),
            propagation.sample(),
            forwarded=forwarded,
        )
    request_id = found.get("x-request-id", "")
    parent = parse(found)
    known = parent is not None and parent.trace_id != ""
    return RequestContext(
        request_id if _REQUEST_ID.fullmatch(request_id) else propagation.request_id(),
        parent.trace_id if parent and known else propagation.trace_id(),
        parent.span_id if parent and known else propagation.span_id(),
        _decide(parent, propagation),
        _safe(_TRACESTATE, found.get("tracestate", "")) if known else "",
        _safe(_BAGGAGE, found.get("baggage", "")),
        forwarded,
        parent.b3 if parent else "",
    )


def _decide(parent: TraceParent | None, propagation: Propagation) -> bool:
    return propagation.sample() if parent is None or parent.sampled is None else parent.sampled


def _safe(pattern: re.Pattern[str], value: str) -> str:
    return value if pattern.fullmatch(value) else ""


def inject(context: RequestContext) -> Headers:
    """The headers that carry a context to the next service."""
    headers = [
        ("x-request-id", context.request_id),
        *render(context.trace_id, context.span_id, context.sampled, context.b3),
    ]
    if context.tracestate:
        headers.append(("tracestate", context.tracestate))
    if context.baggage:
        headers.append(("baggage", context.baggage))
    return (*headers, *context.forwarded)


def outgoing(headers: Headers, propagation: Propagation) -> RequestContext:
    """The context of a request that leaves: the current one, or a new one outside of any request.

    A trace or a request id that the application itself put on the request (a tracing library, copied headers) is followed.
    """
    context = current()
    if context is None:
        return extract(headers, propagation)
    names = {name for name, _ in headers}
    if names.isdisjoint(_OWN_HEADERS):
        return context
    own = extract(headers, propagation)
    trace = context if names.isdisjoint(_TRACE_IDS) else own
    return RequestContext(
        own.request_id if "x-request-id" in names else context.request_id,
        trace.trace_id,
        trace.span_id,
        trace.sampled,
        trace.tracestate,
        own.baggage or context.baggage,
        context.forwarded,
        own.b3 or context.b3,
    )


_current: ContextVar[RequestContext | None] = ContextVar("meshlib_request_context", default=None)


def current() -> RequestContext | None:
    """The context of the request being served; None outside of one."""
    return _current.get()


def enter(context: RequestContext) -> Token[RequestContext | None]:
    """Make a context the current one. Give the token to `leave`."""
    return _current.set(context)


def leave(token: Token[RequestContext | None]) -> None:
    """Restore what was current before `enter`."""
    try:
        _current.reset(token)
    except ValueError:
        # A server may finish a response in another context than it began it in (WSGI iterators, generators closed by the
        # garbage collector). The context that held our value is gone then, and so is the value.
        return
