"""An explanation as a person reads it: top to bottom the way of the request, each step with who said so."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .failure import paint

_WIDTH = 11  # of the names of steps


def print_explanation(answer: Mapping[str, Any]) -> None:
    """Print the answer of POST /v1/explain."""
    for line in explanation_lines(answer):
        print(line)


def explanation_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The lines of an explanation."""
    request = answer["request"]
    yield _bold(f"{request['method']} {request['url']}")
    yield from _step("from", [_caller(answer["caller"])])
    if not answer["inMesh"]:
        yield from _step("host", [answer["message"]])
        return
    if answer["route"] is None:
        yield from _step("host", [answer["host"] or f"nothing is served for {answer['authority']} (404 NR)"])
        yield from _step("route", ["none matches: 404 NR", *_passed_over(answer["considered"])])
        return
    yield from _step("host", [answer["host"]])
    yield from _step(
        "route", [_name(answer["route"], answer["origin"]), *_said(answer["origin"]), *_passed_over(answer["considered"])]
    )
    for target in answer["targets"]:
        yield from _target(target, alone=len(answer["targets"]) == 1)
    yield from _step("timeout", [_seconds(answer["timeoutSeconds"], "no limit")])
    yield from _step("retries", [_retry(answer["retry"], answer["perTryTimeoutSeconds"])])
    if answer["fault"]:
        yield from _step("fault", _fault(answer["fault"]))
    yield from _step("access", _access(answer["access"]))


def _caller(caller: Mapping[str, Any]) -> str:
    who = f"{caller['service'] or 'a client'} in namespace {caller['namespace']}"
    if caller["connected"]:
        return f"{who} ({caller['instance']})"
    return f"{who} (not connected; assumed)" if caller["service"] else who


def _target(target: Mapping[str, Any], *, alone: bool) -> Iterator[str]:
    share = "" if alone else f"{target['percent']:g}% "
    problem = [paint(target["problem"], "31", sys.stdout)] if target["problem"] else []
    yield from _step("to", [f"{share}{subset_name(target['cluster'])}", *problem, *_said(target["origin"])])
    if target["endpoints"]:
        yield from _step("endpoints", [_endpoint(one) for one in target["endpoints"]])
        yield from _step("balancing", [target["loadBalancer"]])


def subset_name(cluster: str) -> str:
    """`subset v2 of reviews.default.svc.cluster.local:9080` for `outbound|9080|v2|reviews...`, else the name itself."""
    parts = cluster.split("|")
    if len(parts) != 4:
        return cluster
    _, port, subset, host = parts
    return f"{f'subset {subset} of ' if subset else ''}{host}:{port}"


def _endpoint(one: Mapping[str, Any]) -> str:
    health = "" if one["healthy"] else ", not healthy"
    secured = "mutual TLS" if one["mutualTls"] else "plain text"
    return f"{one['workload'] or '-'} {one['address']} ({secured}{health})"


def _retry(retry: Mapping[str, Any] | None, per_try: float | None) -> str:
    if retry is None:
        return "none"
    limit = f", {_seconds(per_try, '')} each" if per_try is not None else ""
    return f"{retry['attempts']}{limit}, on {', '.join([*retry['on'], *map(str, retry['statusCodes'])])}"


def _fault(fault: Mapping[str, Any]) -> Iterator[str]:
    if fault["delay"]:
        yield f"delay {_seconds(fault['delay']['seconds'], '')} for {fault['delay']['percent']:g}%"
    if fault["abort"]:
        yield f"abort with {fault['abort']['httpStatus']} for {fault['abort']['percent']:g}%"


def _access(instances: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What servers would say by their policies; nothing where it is not known who asks, or nobody is connected who serves."""
    for one in instances:
        colour = "31" if one["decision"] == "deny" else "0"
        reason = f": {one['reason']}" if one["reason"] else ""
        yield f"{paint(one['decision'], colour, sys.stdout)} by {one['instance']}{reason}"
        yield from _said(one["origin"])


def _passed_over(considered: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in considered:
        if not entry["matched"]:
            yield _dim(f"not {_name(entry['route'], entry['origin'])}: {entry['reason']}{_place(entry['origin'], ' (', ')')}")


def _name(route: str | None, origin: Mapping[str, Any] | None) -> str:
    """A route's own name, else its place in the object, else that it is the default."""
    return route or (origin["field"].removeprefix("spec.") if origin else "") or "default"


def _said(origin: Mapping[str, Any] | None) -> list[str]:
    return [_dim(f"by {origin['object']}{_place(origin, ', ', '')}")] if origin else []


def _place(origin: Mapping[str, Any] | None, before: str, after: str) -> str:
    if not origin or not origin["file"]:
        return ""
    line = f":{origin['line']}" if origin["line"] else ""
    return f"{before}{origin['file']}{line}{after}"


def _step(name: str, lines: Iterable[str]) -> Iterator[str]:
    for position, line in enumerate(lines):
        yield f"  {name if position == 0 else '':<{_WIDTH}}{line}"


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:g} s"


def _bold(text: str) -> str:
    return paint(text, "1", sys.stdout)


def _dim(text: str) -> str:
    return paint(text, "2", sys.stdout)
