"""When no policy allows a request: which one came closest, for the log and for `explain`. Never part of a decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meshlib.config.policy import (
    Address,
    All,
    AnyOf,
    Authenticated,
    Condition,
    Header,
    Ip,
    Metadata,
    Not,
    Policy,
    Port,
    Rules,
    ServerName,
    UriTemplate,
    UrlPath,
)
from meshlib.inbound.reading import address_of, port_of, reader
from meshlib.inbound.value_match import found_value
from meshlib.inbound.visit import Miss, Visit
from meshlib.match import bare_path, shown, wanted

Holds = Callable[[Condition], Callable[[Visit], bool]]


def closest(rules: Rules, holds: Holds, visit: Visit) -> Miss:
    """The policy with the fewest unmet conditions."""
    ranked = misses(rules, holds, visit)
    return ranked[0] if ranked else Miss()


def misses(rules: Rules, holds: Holds, visit: Visit) -> list[Miss]:
    """All policies, the ones with the fewest unmet conditions first.

    Args:
        holds: gives a condition's test: `authorize.test`.
    """
    found = [_miss(policy, holds, visit) for policy in rules.policies]
    return sorted(found, key=lambda miss: len(miss.unmet))


def _miss(policy: Policy, holds: Holds, visit: Visit) -> Miss:
    return Miss(policy.name, (*_unmet(policy.permission, holds, visit), *_unmet(policy.principal, holds, visit)))


def _unmet(condition: Condition, holds: Holds, visit: Visit) -> tuple[str, ...]:
    if holds(condition)(visit):
        return ()
    match condition:
        case All(parts):
            return tuple(one for part in parts for one in _unmet(part, holds, visit))
        case AnyOf(parts):
            return min((_unmet(part, holds, visit) for part in parts), key=len, default=("nothing is allowed",))
        case Not(part):
            return (f"it must not hold that {_words(part, visit)}",)
        case _:
            return (_words(condition, visit),)


def _words(condition: Condition, visit: Visit) -> str:
    describe = _WORDS.get(type(condition))
    return describe(condition, visit) if describe else "it is otherwise"


def _header(condition: Header, visit: Visit) -> str:
    match = condition.match
    verb = "must not be" if match.invert else "must be"
    return f"header {match.name} {verb} {wanted(match.match)}, it is {shown(reader(match.name)(visit))}"


def _authenticated(condition: Authenticated, visit: Visit) -> str:
    asked = wanted(condition.match) if condition.match else "proved by mutual TLS"
    return f"the peer must be {asked}, it is {visit.peer.spiffe_id or 'not authenticated'}"


def _several(word: str) -> Callable[[Any, Visit], str]:
    return lambda condition, visit: f" {word} ".join(_words(part, visit) for part in condition.parts)


_WHOSE = {Address.DESTINATION: "our address", Address.DIRECT: "the peer's address", Address.REMOTE: "the client's address"}


def _ip(condition: Ip, visit: Visit) -> str:
    return f"{_WHOSE[condition.address]} must be in {condition.network}, it is {address_of(condition.address)(visit)}"


def _port(condition: Port, visit: Visit) -> str:
    span = str(condition.first) if condition.first == condition.last else f"{condition.first} to {condition.last}"
    return f"our port must be {span}, it is {port_of(visit)}"


def _metadata(condition: Metadata, visit: Visit) -> str:
    value = found_value(visit.metadata, condition)
    told = repr(value) if isinstance(value, str | int | float | list | dict) else "absent"
    return f"{condition.namespace} {'.'.join(condition.path)} must be otherwise, it is {told}"


_WORDS: Mapping[type[Condition], Callable[[Any, Visit], str]] = {
    All: _several("and"),
    AnyOf: _several("or"),
    Not: lambda condition, visit: f"not {_words(condition.part, visit)}",
    Header: _header,
    UrlPath: lambda condition, visit: f"path must be {wanted(condition.match)}, it is {bare_path(visit.request.path)!r}",
    UriTemplate: lambda condition, visit: f"path must be like {condition.template}, it is {bare_path(visit.request.path)!r}",
    Authenticated: _authenticated,
    Ip: _ip,
    Port: _port,
    ServerName: lambda condition, visit: f"server name must be {wanted(condition.match)}, it is {visit.server_name!r}",
    Metadata: _metadata,
}
