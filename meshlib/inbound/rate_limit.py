"""May it enter now? The two rate limit filters. Envoy: local_ratelimit.cc, ratelimit.cc.

    local    descriptors -> buckets of this process -> in, or 429 `local_rate_limited`
    global   descriptors -> the service is asked    -> in, or 429; no answer: in, or 500 where the filter fails closed

The filters of one port decide in the order in which the listener names them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from meshlib.config.policy import Filter
from meshlib.config.rate_limit import OF_APPLICATION, Entries, GlobalRateLimit, LocalRateLimit, MetadataValue
from meshlib.facts import Headers, Peer, Request
from meshlib.inbound.buckets import Buckets, Level
from meshlib.inbound.descriptors import descriptors
from meshlib.inbound.visit import Denied, Question, Visit

RATE_LIMITED = "RL"
SERVICE_ERROR = "RLSE"
_RESOURCE_EXHAUSTED = 8  # google.rpc.Code
_NO_REQUEST = Request("", "", "", "")  # what an application counts is no request


@dataclass(frozen=True, slots=True)
class Counting:
    """What a process counts with.

    Args:
        dice: uniform in [0.0, 1.0), for filters that count a part of the requests only.
        cluster: our own, Envoy's `--service-cluster`.
    """

    buckets: Buckets
    dice: Callable[[], float]
    cluster: str = ""

    def chosen(self, fraction: float) -> bool:
        """Whether a request belongs to a fraction of them."""
        return fraction >= 1.0 or (fraction > 0.0 and self.dice() < fraction)


@dataclass(frozen=True, slots=True)
class AskRateLimit(Question):
    """Ask a service of Envoy's protocol (envoy.service.ratelimit.v3). The answer is a `Judged`, or None: it gave none."""

    target: str
    timeout: float
    domain: str
    descriptors: tuple[Entries, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a rate limit service said.

    Args:
        over: the request is one too many.
        response_headers, request_headers: join the response, and the request that goes on.
        body: of a refusal.
        levels: of each descriptor that has a limit: the words of its policy, `10;w=60`, with its level.
    """

    over: bool
    response_headers: Headers = ()
    request_headers: Headers = ()
    body: str = ""
    levels: tuple[tuple[str, Level], ...] = ()


def decide_local(limit: LocalRateLimit, visit: Visit) -> Denied | None:
    """Take tokens for a request; without them it is refused."""
    counting = visit.counting
    if counting is None or not counting.chosen(limit.enabled):
        return None
    found = descriptors(limit.rules, visit, counting.cluster) if limit.named else []
    drawn = counting.buckets.draw(limit, found)
    if limit.tell and drawn.level is not None:
        visit.response_headers += _told(drawn.level)
    if drawn.allowed:
        return None
    if not counting.chosen(limit.enforced):
        visit.request = replace(visit.request, headers=(*visit.request.headers, *limit.passed_headers))
        return None
    return Denied(
        f"more requests than the rate limit {limit.name} allows",
        status=limit.status,
        body="local_rate_limited",
        headers=limit.refused_headers,
        flag=RATE_LIMITED,
        detail="local_rate_limited",
        grpc_status=_RESOURCE_EXHAUSTED if limit.exhausted else None,
    )


def ask_global(limit: GlobalRateLimit, visit: Visit) -> Generator[Question, Judged | None, Denied | None]:
    """Ask the service about a request, if it counts as anything."""
    counting = visit.counting
    if counting is None or not counting.chosen(limit.enabled):
        return None
    found = descriptors(limit.rules, visit, counting.cluster)
    if not found:
        return None
    judged = yield AskRateLimit(limit.target, limit.timeout, limit.domain, tuple(found))
    if judged is None:
        return _unanswered(limit) if limit.closed else None
    if limit.tell:
        visit.response_headers += _told_of_all(judged.levels)
    enforced = judged.over and counting.chosen(limit.enforced)
    marks = [("x-envoy-ratelimited", "true")] if judged.over and limit.marked else []
    visit.response_headers += [*judged.response_headers, *marks]
    if enforced:
        return _over(limit, judged)
    visit.request = replace(visit.request, headers=(*visit.request.headers, *judged.request_headers))
    return None


def _over(limit: GlobalRateLimit, judged: Judged) -> Denied:
    return Denied(
        f"the rate limit service {limit.target} counts more requests than {limit.domain} allows",
        status=limit.status,
        body=judged.body,
        headers=limit.refused_headers,
        flag=RATE_LIMITED,
        detail="request_rate_limited",
        grpc_status=_RESOURCE_EXHAUSTED if limit.exhausted else None,
    )


def _unanswered(limit: GlobalRateLimit) -> Denied:
    return Denied(
        f"the rate limit service {limit.target} gave no answer, and nobody enters without one",
        status=limit.error_status,
        body="",
        flag=SERVICE_ERROR,
        detail="rate_limiter_error",
    )


def _told(level: Level) -> list[tuple[str, str]]:
    return [
        ("x-ratelimit-limit", str(level.limit)),
        ("x-ratelimit-remaining", str(level.remaining)),
        ("x-ratelimit-reset", str(level.reset)),
    ]


def _told_of_all(levels: Sequence[tuple[str, Level]]) -> list[tuple[str, str]]:
    """Envoy: the level of the descriptor with the least left; the policies of all."""
    if not levels:
        return []
    least = min((level for _, level in levels), key=lambda level: level.remaining)
    limit, *rest = _told(least)
    return [(limit[0], ", ".join((limit[1], *(policy for policy, _ in levels if policy)))), *rest]


def application_limit(filters: Iterable[Filter], name: str) -> LocalRateLimit | GlobalRateLimit | None:
    """The limit that an application means by the name of a RateLimit object; None: there is none.

    Filters of the application are named `.../NAMESPACE/NAME`.
    """
    for one in filters:
        if isinstance(one, LocalRateLimit | GlobalRateLimit) and one.of_application and one.name.rpartition("/")[2] == name:
            return one
    return None


def let_pass(
    limit: LocalRateLimit | GlobalRateLimit, values: Mapping[str, object], counting: Counting
) -> Generator[Question, Judged | None, bool]:
    """Whether the application may go on, with what it gives for the limit's keys.

    Raises:
        ValueError: other keys than the limit's.
    """
    wanted = {action.path[1] for rule in limit.rules for action in rule if isinstance(action, MetadataValue)}
    if wanted != values.keys():
        given = ", ".join(sorted(values)) or "nothing"
        raise ValueError(f"{limit.name} counts by {', '.join(sorted(wanted)) or 'nothing'}, not by {given}")
    visit = Visit(_NO_REQUEST, Peer(), counting=counting)
    visit.metadata[OF_APPLICATION] = {key: str(value) for key, value in values.items()}
    if isinstance(limit, LocalRateLimit):
        return decide_local(limit, visit) is None
    return (yield from ask_global(limit, visit)) is None
