"""May this peer do this? Envoy's RBAC filter, each policy prepared once as a function of the visit.

Rule 1: a policy holds if one of its permissions and one of its principals do; the first one by name is the one that is named.
Rule 2: ALLOW refuses what no policy holds for, DENY what one holds for, LOG nothing.
Rule 3: shadow rules decide nothing: what they would have done is noted for the log and in the dynamic metadata.
Rule 4: where a server is not told the authority of a request, only what is let in whatever it is may enter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from meshlib.config.model import MatchKind
from meshlib.config.policy import (
    Action,
    All,
    Always,
    AnyOf,
    Authenticated,
    Condition,
    Header,
    Ip,
    Metadata,
    Not,
    Port,
    Rbac,
    Rules,
    ServerName,
    UriTemplate,
    UrlPath,
)
from meshlib.facts import DryRun
from meshlib.inbound.closest import closest
from meshlib.inbound.reading import address_of, port_of, reader
from meshlib.inbound.value_match import found_value, value_fits
from meshlib.inbound.visit import Denied, Miss, Visit
from meshlib.match import bare_path, text_matches, values_match

BODY = "RBAC: access denied"
NAMESPACE = "envoy.filters.http.rbac"
"""Where the dynamic metadata holds what shadow rules would have done."""
_COMMON = "envoy.common"
_DRY_RUN = re.compile(r"istio_dry_run_(allow|deny)_")  # Istio's prefixes; shadow rules of CUSTOM have another one
_AUTHORITY = frozenset({":authority", "host"})

Test = Callable[[Visit], bool]
Decide = Callable[[Visit], Denied | None]


def step(rbac: Rbac) -> Decide:
    """The filter, ready to decide."""
    enforce = _cautious(_enforcement(rbac.rules)) if rbac.rules else None
    shadow = _shadow(rbac.shadow, rbac.shadow_prefix) if rbac.shadow else None
    if shadow is None:
        return enforce or (lambda visit: None)

    def decide(visit: Visit) -> Denied | None:
        shadow(visit)
        return enforce(visit) if enforce else None

    return decide


def _cautious(enforce: Decide) -> Decide:
    def decide(visit: Visit) -> Denied | None:
        if visit.knows_authority:
            return enforce(visit)
        denied = [_supposing(guess, enforce, visit) for guess in (False, True)]
        return denied[0] or denied[1]

    return decide


def _supposing(guess: bool, enforce: Decide, visit: Visit) -> Denied | None:
    visit.guess = guess
    try:
        return enforce(visit)
    finally:
        visit.guess = None


def _enforcement(rules: Rules) -> Decide:
    first = _first(rules)
    match rules.action:
        case Action.ALLOW:
            refused = _refused("", partial(closest, rules, test))
            return lambda visit: None if first(visit) is not None else refused
        case Action.DENY:
            answers = {policy.name: _refused(policy.name) for policy in rules.policies}

            def deny(visit: Visit) -> Denied | None:
                name = first(visit)
                return None if name is None else answers[name]

            return deny
        case Action.LOG:

            def log(visit: Visit) -> None:
                visit.metadata.setdefault(_COMMON, {})["access_log_hint"] = first(visit) is not None

            return log


def _shadow(rules: Rules, prefix: str) -> Callable[[Visit], None]:
    first = _first(rules)
    trial = _DRY_RUN.fullmatch(prefix)

    def note(visit: Visit) -> None:
        name = first(visit)
        allowed = rules.action is Action.LOG or (name is not None) == (rules.action is Action.ALLOW)
        found = visit.metadata.setdefault(NAMESPACE, {})
        result = found[f"{prefix}shadow_engine_result"] = "allowed" if allowed else "denied"
        if name is not None:
            found[f"{prefix}shadow_effective_policy_id"] = name
        if trial:
            visit.dry_runs.append(DryRun(trial[1], result, name or ""))

    return note


def _refused(policy: str, near: Callable[[Visit], Miss] | None = None) -> Denied:
    name = policy or "none"
    detail = f"rbac_access_denied_matched_policy[{'_'.join(name.split())}]"
    return Denied(f"{BODY}, matched policy {name}", body=BODY, detail=detail, policy=policy, closest=near)


def _first(rules: Rules) -> Callable[[Visit], str | None]:
    """The name of the first policy that holds; None: none does."""
    policies = tuple((policy.name, test(policy.permission), test(policy.principal)) for policy in rules.policies)

    def first(visit: Visit) -> str | None:
        for name, permitted, known in policies:
            if permitted(visit) and known(visit):
                return name
        return None

    return first


def test(condition: Condition) -> Test:
    """The condition as a function."""
    return _TESTS[type(condition)](condition)


def _always(condition: Always) -> Test:
    return lambda visit: True


def _all(condition: All) -> Test:
    tests = tuple(map(test, condition.parts))
    if len(tests) == 1:
        return tests[0]

    def holds(visit: Visit) -> bool:
        for one in tests:  # noqa: SIM110  # a generator takes twice as long, and this runs for every request
            if not one(visit):
                return False
        return True

    return holds


def _any(condition: AnyOf) -> Test:
    tests = tuple(map(test, condition.parts))
    if len(tests) == 1:
        return tests[0]

    def holds(visit: Visit) -> bool:
        for one in tests:  # noqa: SIM110  # as above
            if one(visit):
                return True
        return False

    return holds


def _not(condition: Not) -> Test:
    part = test(condition.part)

    def holds(visit: Visit) -> bool:
        if visit.guess is None:
            return not part(visit)
        visit.guess = not visit.guess  # a negation holds as far as possible where its part does as little as possible
        found = part(visit)
        visit.guess = not visit.guess
        return not found

    return holds


def _header(condition: Header) -> Test:
    read = reader(condition.match.name)
    if condition.match.name in _AUTHORITY:
        return lambda visit: values_match(condition.match, read(visit)) if visit.guess is None else visit.guess
    return lambda visit: values_match(condition.match, read(visit))


def _url_path(condition: UrlPath) -> Test:
    return lambda visit: text_matches(condition.match, bare_path(visit.request.path))


def _uri_template(condition: UriTemplate) -> Test:
    fits = condition.pattern.fullmatch
    return lambda visit: fits(bare_path(visit.request.path).encode("latin-1", "replace")) is not None


def _ip(condition: Ip) -> Test:
    read, network = address_of(condition.address), condition.network

    def holds(visit: Visit) -> bool:
        address = read(visit)
        return address is not None and address in network

    return holds


def _port(condition: Port) -> Test:
    return lambda visit: condition.first <= port_of(visit) <= condition.last


def _server_name(condition: ServerName) -> Test:
    return lambda visit: text_matches(condition.match, visit.server_name)


def _authenticated(condition: Authenticated) -> Test:
    match = condition.match
    if match is None:
        return lambda visit: visit.peer.secured
    # Envoy compares the certificate's URI, then its subject, which is empty in the mesh.
    nobody = match.kind is not MatchKind.PRESENT and text_matches(match, "")
    return lambda visit: visit.peer.secured and (nobody or text_matches(match, visit.peer.spiffe_id))


def _metadata(condition: Metadata) -> Test:
    return lambda visit: value_fits(condition.value, found_value(visit.metadata, condition)) != condition.invert


_TESTS: Mapping[type[Condition], Callable[[Any], Test]] = {
    Always: _always,
    All: _all,
    AnyOf: _any,
    Not: _not,
    Header: _header,
    UrlPath: _url_path,
    UriTemplate: _uri_template,
    Ip: _ip,
    Port: _port,
    ServerName: _server_name,
    Authenticated: _authenticated,
    Metadata: _metadata,
}
