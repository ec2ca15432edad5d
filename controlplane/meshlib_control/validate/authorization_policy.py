"""AuthorizationPolicy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from meshlib_control.kinds import AuthorizationPolicy
from meshlib_control.kinds.security import Condition, Operation, Rule, Source
from meshlib_control.mistakes import Mistake, did_you_mean, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import each, target_references, told

_DRY_RUN: Final = "istio.io/dry-run"
_PATH_SEGMENT: Final = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+")
_LONGEST_TEMPLATE: Final = 256
_MAP_KEY: Final = re.compile(r"[^\[]+\[.+\]")
# Identities and claims are known only after CUSTOM has been asked (Istio).
_NOT_FOR_CUSTOM: Final = ("principals", "request_principals", "namespaces", "service_accounts", "trust_domains")


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with an AuthorizationPolicy."""
    spec: AuthorizationPolicy = found.spec
    given = found.raw.get("spec", {})
    yield from target_references(spec.selector, spec.target_ref, spec.target_refs, given)
    yield from _action(spec, given)
    yield from _dry_run(found)
    for index, rule in enumerate(spec.rules):
        path = item("spec.rules", index)
        yield from _rule(rule, given["rules"][index], path)
        if spec.action == "CUSTOM":
            yield from _custom_rule(rule, path)


def _action(spec: AuthorizationPolicy, given: Mapping[str, object]) -> Iterator[Mistake]:
    if spec.action in {"CUSTOM", "DENY"} and "rules" not in given:
        problem = f"{spec.action} without rules never acts"
        yield Mistake("spec.rules", problem, "add an empty rule, - {}, if it shall act on every request")
    if spec.action == "CUSTOM" and not (spec.provider and spec.provider.name):
        yield Mistake("spec.provider.name", "provider.name must not be empty")
    if spec.action != "CUSTOM" and spec.provider is not None:
        yield Mistake("spec.provider", f"provider must not be set with action {spec.action}")


def _dry_run(found: MeshObject) -> Iterator[Mistake]:
    value = found.annotations.get(_DRY_RUN)
    if value is None:
        return
    path = f'metadata.annotations["{_DRY_RUN}"]'
    if found.spec.action not in {"ALLOW", "DENY"}:
        yield Mistake(path, "only supported with action ALLOW or DENY")
    elif value.lower() not in {"true", "false", "t", "f", "1", "0"}:
        yield Mistake(path, f'"{value}" is neither true nor false')


def _rule(rule: Rule, given: Mapping[str, object], path: str) -> Iterator[Mistake]:
    for name in ("from", "to"):
        if given.get(name) == []:
            yield Mistake(f"{path}.{name}", f"{name} must not be empty")
    for index, origin in enumerate(rule.from_):
        place = f"{item(f'{path}.from', index)}.source"
        if origin.source is None or origin.source == Source():
            yield Mistake(place, "source must not be empty")
        else:
            yield from _source(origin.source, place)
    for index, target in enumerate(rule.to):
        place = f"{item(f'{path}.to', index)}.operation"
        if target.operation is None or target.operation == Operation():
            yield Mistake(place, "operation must not be empty")
        else:
            yield from _operation(target.operation, place)
    for index, condition in enumerate(rule.when):
        yield from _condition(condition, item(f"{path}.when", index))


def _source(source: Source, path: str) -> Iterator[Mistake]:
    by_account = source.service_accounts or source.not_service_accounts
    if by_account and (source.principals or source.not_principals or source.namespaces or source.not_namespaces):
        yield Mistake(f"{path}.serviceAccounts", "Cannot set serviceAccounts with namespaces or principals")
    checks: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("principals", _filled),
        ("requestPrincipals", _filled),
        ("namespaces", _filled),
        ("serviceAccounts", _service_account),
        ("trustDomains", _trust_domain),
        ("ipBlocks", formats.subnet),
        ("remoteIpBlocks", formats.subnet),
    )
    yield from _both(source, path, checks)


def _operation(operation: Operation, path: str) -> Iterator[Mistake]:
    checks: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("hosts", _filled),
        ("ports", formats.port_text),
        ("methods", _filled),
        ("paths", _path),
    )
    yield from _both(operation, path, checks)


def _both(part: Source | Operation, path: str, checks: Iterable[tuple[str, Callable[[str], str]]]) -> Iterator[Mistake]:
    """The checks of each list and of its negation, `notPorts`."""
    for name, check_value in checks:
        negated = f"not{name[0].upper()}{name[1:]}"
        for written in (name, negated):
            yield from each(getattr(part, _attribute(written)), f"{path}.{written}", check_value)


def _attribute(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)


def _filled(value: str) -> str:
    return "" if value else "empty value not allowed"


def _service_account(value: str) -> str:
    if "*" in value:
        return "wildcard not allowed"
    parts = value.split("/")
    return "" if all(parts) and len(parts) <= 2 else f'"{value}" must be serviceAccount or namespace/serviceAccount'


def _wildcard(value: str) -> str:
    if not value or value.count("*") > 1 or "*" in value[1:-1]:
        return f'"{value}": one * is allowed, at the start or end' if value else "empty value not allowed"
    return ""


def _trust_domain(value: str) -> str:
    return _wildcard(value) or ("a trust domain must not contain /" if "/" in value else "")


def _path(value: str) -> str:
    """A path, possibly with `{*}` (one segment) and, as the last operator, `{**}` (any number)."""
    if not value:
        return "empty value not allowed"
    segments = value.strip("/").split("/")
    operators = [segment for segment in segments if segment in {"{*}", "{**}"}]
    if "{**}" in operators[:-1]:
        return f'invalid path "{value}": {{**}} is not the last operator'
    for segment in segments:
        if segment in {"{*}", "{**}"}:
            continue
        if "{" in segment or "}" in segment:
            return f'invalid path "{value}": {{ and }} are only allowed as {{*}} and {{**}}'
        if operators and not _PATH_SEGMENT.fullmatch(segment):
            return f'invalid path "{value}": look at "{segment}"'
    # Istio accepts what follows. Envoy 1.40 crashes with the first two and refuses the third.
    if operators and not value.startswith("/"):
        return f'invalid path "{value}": a template begins with /'
    if operators and "//" in value:
        return f'invalid path "{value}": a template has no empty segments'
    if operators and len(value) > _LONGEST_TEMPLATE:
        return f"a path with {{*}} or {{**}} has at most {_LONGEST_TEMPLATE} characters"
    return ""


_KEYS: Final[Mapping[str, Callable[[str], str]]] = {
    "source.ip": formats.subnet,
    "remote.ip": formats.subnet,
    "source.namespace": _filled,
    "source.serviceAccount": _service_account,
    "source.principal": _filled,
    "source.trustDomain": _wildcard,
    "request.auth.principal": _filled,
    "request.auth.audiences": _filled,
    "request.auth.presenter": _filled,
    "destination.ip": formats.subnet,
    "destination.port": formats.port_text,
    "connection.sni": _filled,
}
_PREFIXES: Final = ("request.headers", "request.auth.claims", "experimental.envoy.filters.")


def _condition(condition: Condition, path: str) -> Iterator[Mistake]:
    key = condition.key
    if not condition.values and not condition.not_values:
        yield Mistake(path, f"at least one of values or notValues must be set for key {key}")
    if key.startswith(_PREFIXES):
        problem = "" if _MAP_KEY.fullmatch(key) else f'bad key "{key}": it should have the form a[b]'
        yield from told(f"{path}.key", problem, "for example request.headers[x-version]")
    elif key not in _KEYS:
        yield Mistake(f"{path}.key", f'unknown attribute "{key}"', did_you_mean(key, _KEYS))
    check_value = _KEYS.get(key, _filled)
    yield from each(condition.values, f"{path}.values", check_value)
    yield from each(condition.not_values, f"{path}.notValues", check_value)


def _custom_rule(rule: Rule, path: str) -> Iterator[Mistake]:
    for index, origin in enumerate(rule.from_):
        for name in _NOT_FOR_CUSTOM if origin.source is not None else ():
            if getattr(origin.source, name) or getattr(origin.source, f"not_{name}"):
                problem = f"{name.replace('_', ' ')} cannot be used with action CUSTOM"
                yield Mistake(f"{item(f'{path}.from', index)}.source", problem)
    for index, condition in enumerate(rule.when):
        if condition.key.startswith("request.auth.") or condition.key in {
            "source.namespace",
            "source.serviceAccount",
            "source.trustDomain",
            "source.principal",
        }:
            yield Mistake(f"{item(f'{path}.when', index)}.key", f"{condition.key} cannot be used with action CUSTOM")
