"""Asks rate limit services (envoy.service.ratelimit.v3) for the filters of our port, blocking or on asyncio.

The channels are those of the gRPC adapter, found by their entry points: so a service of the mesh is balanced and reached over
mutual TLS as by any other caller. What gives no answer in time is no answer, and the filter decides what that means.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlib.config.messages import message
from meshlib.inbound.buckets import Level
from meshlib.inbound.rate_limit import AskRateLimit, Judged

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CHANNELS = "meshlib.channels"
"""The group of entry points: `blocking` and `asyncio`, each a function of target and mesh."""

_log = logging.getLogger("meshlib")
_WINDOWS = {1: 1, 2: 60, 3: 3600, 4: 86_400, 5: 2_592_000, 6: 31_536_000, 7: 604_800}
"""Seconds of RateLimitResponse.RateLimit.Unit: second, minute, hour, day, month, year, week."""


class RateLimitServices:
    """The services that a process asks; one set of channels for all threads, and one for each event loop.

    Args:
        mesh: whose identity and routes the calls have.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = weakref.ref(mesh)
        self._lock = threading.Lock()
        self._blocking: dict[str, Any] = {}
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._silent: set[str] = set()

    def ask(self, question: AskRateLimit) -> Judged | None:
        """The service's answer, in at most `question.timeout` seconds; None: it gave none."""
        try:
            answer = self._call(question.target)(_request(question), timeout=question.timeout)
        except grpc.RpcError as error:
            self._unanswered(question, error)
            return None
        return self._answered(question, answer)

    async def ask_async(self, question: AskRateLimit) -> Judged | None:
        """As `ask`, for the running event loop."""
        try:
            answer = await self._async_call(question.target)(_request(question), timeout=question.timeout)
        except grpc.RpcError as error:
            self._unanswered(question, error)
            return None
        return self._answered(question, answer)

    def _call(self, target: str) -> Any:
        with self._lock:
            if target not in self._blocking:
                self._blocking[target] = _method(_opened("blocking", target, self._mesh()))
            return self._blocking[target]

    def _async_call(self, target: str) -> Any:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._by_loop:
                for closed in [other for other in self._by_loop if other.is_closed()]:
                    del self._by_loop[closed]
            calls = self._by_loop.setdefault(loop, {})
        if target not in calls:
            calls[target] = _method(_opened("asyncio", target, self._mesh()))
        return calls[target]

    def _answered(self, question: AskRateLimit, answer: Any) -> Judged | None:
        if question.target in self._silent:
            self._silent.discard(question.target)
            _log.info("meshlib: the rate limit service %s answers again", question.target)
        return judged(answer)

    def _unanswered(self, question: AskRateLimit, error: Any) -> None:
        if question.target not in self._silent:  # an outage is told once
            self._silent.add(question.target)
            _log.warning(
                "meshlib: the rate limit service %s does not answer: %s: %s",
                question.target,
                error.code().name,
                error.details(),
            )


def _opened(kind: str, target: str, mesh: Mesh | None) -> Any:
    (found,) = entry_points(group=CHANNELS, name=kind)
    return found.load()(target, mesh=mesh)


def _method(channel: Any) -> Any:
    return channel.unary_unary(
        METHOD,
        request_serializer=message("envoy.service.ratelimit.v3.RateLimitRequest").SerializeToString,
        response_deserializer=message("envoy.service.ratelimit.v3.RateLimitResponse").FromString,
    )


def _request(question: AskRateLimit) -> Any:
    descriptors = [
        {"entries": [{"key": _utf8(key), "value": _utf8(value)} for key, value in entries]} for entries in question.descriptors
    ]
    return message("envoy.service.ratelimit.v3.RateLimitRequest")(domain=question.domain, descriptors=descriptors)


def _utf8(text: str) -> str:
    # Texts of requests are bytes shown as latin-1; protobuf wants what they mean.
    return text if text.isascii() else text.encode("latin-1", "replace").decode(errors="replace")


def judged(answer: Any) -> Judged | None:
    """A RateLimitResponse in our words; None for one that says nothing (Envoy: UNKNOWN is an error)."""
    code = answer.DESCRIPTOR.fields_by_name["overall_code"].enum_type.values_by_number.get(answer.overall_code)
    if code is None or code.name not in ("OK", "OVER_LIMIT"):
        return None
    return Judged(
        over=code.name == "OVER_LIMIT",
        response_headers=_headers(answer.response_headers_to_add),
        request_headers=_headers(answer.request_headers_to_add),
        body=answer.raw_body.decode(errors="replace"),
        levels=tuple(_level(status) for status in answer.statuses if status.HasField("current_limit")),
    )


def _headers(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((one.key.lower(), one.value or one.raw_value.decode("latin-1")) for one in values)


def _level(status: Any) -> tuple[str, Level]:
    limit = status.current_limit
    window = _WINDOWS.get(limit.unit)
    name = f';name="{limit.name}"' if limit.name else ""
    policy = f"{limit.requests_per_unit};w={window}{name}" if window else ""
    return policy, Level(limit.requests_per_unit, status.limit_remaining, status.duration_until_reset.seconds)
