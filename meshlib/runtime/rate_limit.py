"""Asks rate limit services (envoy.service.ratelimit.v3) for the filters of our port, blocking or on asyncio.

What gives no answer in time is no answer, and the filter decides what that means.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshlib.config.messages import message
from meshlib.inbound.buckets import Level
from meshlib.inbound.rate_limit import AskRateLimit, Judged
from meshlib.runtime.channels import Channels, utf8

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
_log = logging.getLogger("meshlib")
_WINDOWS = {1: 1, 2: 60, 3: 3600, 4: 86_400, 5: 2_592_000, 6: 31_536_000, 7: 604_800}
"""Seconds of RateLimitResponse.RateLimit.Unit: second, minute, hour, day, month, year, week."""


class RateLimitServices:
    """The services that a process asks; one set of channels for all threads, and one for each event loop.

    Args:
        mesh: whose identity and routes the calls have.
    """

    def __init__(self, mesh: Mesh) -> None:
        kind = "envoy.service.ratelimit.v3.RateLimit"
        self._channels = Channels(mesh, METHOD, f"{kind}Request", f"{kind}Response")
        self._silent: set[str] = set()

    def ask(self, question: AskRateLimit) -> Judged | None:
        """The service's answer, in at most `question.timeout` seconds; None: it gave none."""
        try:
            answer = self._channels.call(question.target)(_request(question), timeout=question.timeout)
        except grpc.RpcError as error:
            self._unanswered(question, error)
            return None
        return self._answered(question, answer)

    async def ask_async(self, question: AskRateLimit) -> Judged | None:
        """As `ask`, for the running event loop."""
        try:
            answer = await self._channels.async_call(question.target)(_request(question), timeout=question.timeout)
        except grpc.RpcError as error:
            self._unanswered(question, error)
            return None
        return self._answered(question, answer)

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


def _request(question: AskRateLimit) -> Any:
    descriptors = [
        {"entries": [{"key": utf8(key), "value": utf8(value)} for key, value in entries]} for entries in question.descriptors
    ]
    return message("envoy.service.ratelimit.v3.RateLimitRequest")(domain=question.domain, descriptors=descriptors)


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
