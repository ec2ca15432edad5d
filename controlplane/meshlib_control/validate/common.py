"""Rules that several kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from meshlib_control.kinds.common import Destination, LabelSelector, StringMatch, TargetReference, WorkloadSelector
from meshlib_control.mistakes import Mistake, child, did_you_mean, item
from meshlib_control.validate import formats

TARGETS = (
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
)


def told(path: str, problem: str, suggestion: str = "") -> Iterator[Mistake]:
    """A mistake, if there is a problem."""
    if problem:
        yield Mistake(path, problem, suggestion)


def each(values: Iterable[str], path: str, check: Callable[[str], str]) -> Iterator[Mistake]:
    """A check of each item of a list."""
    for index, value in enumerate(values):
        yield from told(item(path, index), check(value))


def rule(path: str, problem: str) -> Mistake:
    """A rule over several fields, in the API server's words."""
    return Mistake(path, f'Invalid value: "object": {problem}')


def percent(value: float, path: str) -> Iterator[Mistake]:
    """0.0 to 100.0, and not below the precision of a ten-thousandth."""
    if not (value == 0 or 0.0001 <= value <= 100):
        yield Mistake(path, f"percentage {value} is neither 0.0, nor in range [0.0001, 100.0]")


def whole_percent(value: int, path: str) -> Iterator[Mistake]:
    """0 to 100."""
    if not 0 <= value <= 100:
        yield Mistake(path, f"percentage {value} is not in range 0..100")


def match_text(match: StringMatch | None, path: str, *, empty_prefix: bool = False) -> Iterator[Mistake]:
    """A comparison: the regular expression is valid, the prefix is not empty."""
    if match is None:
        return
    if match.regex is not None:
        yield from told(child(path, "regex"), formats.regex(match.regex), _regex_advice(match.regex))
    if match.prefix == "" and not empty_prefix:
        yield Mistake(child(path, "prefix"), "prefix string match should not be empty", 'use regex: ".*" for any value')


def _regex_advice(text: str) -> str:
    return "RE2 has no look-around and no back-references" if "(?" in text or "\\1" in text else ""


def destination(target: Destination, path: str) -> Iterator[Mistake]:
    """A host that is not `*`, a good subset name, a port."""
    if target.host == "*":
        yield Mistake(child(path, "host"), "invalid destination host *")
    else:
        yield from told(child(path, "host"), formats.wildcard_host(target.host))
    if target.subset:
        yield from told(child(path, "subset"), formats.label(target.subset))
    if target.port is not None:
        yield from told(f"{path}.port.number", formats.port(target.port.number))


def labels(values: Mapping[str, str], path: str) -> Iterator[Mistake]:
    """Labels as Kubernetes allows them."""
    for key, value in values.items():
        prefix, slash, name = key.rpartition("/")
        if not name or len(name) > 63 or (slash and formats.fqdn(prefix)):
            yield Mistake(child(path, key), f'"{key}" is not a valid label key')
        if len(value) > 63:
            yield Mistake(child(path, key), f'"{value}" is longer than 63 characters')


def selector(chosen: LabelSelector | None, path: str = "spec.selector") -> Iterator[Mistake]:
    """A selector of the security kinds: no wildcards, no empty key."""
    for key, value in (chosen.match_labels if chosen else {}).items():
        place = child(f"{path}.matchLabels", key)
        if "*" in key:
            yield Mistake(place, "wildcard not allowed in label key match")
        if not key:
            yield Mistake(f"{path}.matchLabels", "key must not be empty")
        if "*" in value:
            yield Mistake(place, "wildcard not allowed in label value match")


def workload_selector(chosen: WorkloadSelector | None, path: str = "spec.workloadSelector") -> Iterator[Mistake]:
    """A selector of the networking kinds: no wildcards, no empty key."""
    for key, value in (chosen.labels if chosen else {}).items():
        if not key:
            yield Mistake(f"{path}.labels", "empty key is not supported in selector")
        if "*" in key or "*" in value:
            yield Mistake(child(f"{path}.labels", key), "wildcard is not supported in selector")


def target_references(
    chosen: LabelSelector | None,
    one: TargetReference | None,
    several: tuple[TargetReference, ...],
    given: Mapping[str, object],
) -> Iterator[Mistake]:
    """What a policy is attached to: one way of saying it, and only to what can be a target.

    Args:
        given: the spec as written: a `targetRefs: []` counts as set.
    """
    ways = [name for name in ("selector", "targetRef", "targetRefs") if name in given]
    if len(ways) > 1:
        yield Mistake(f"spec.{ways[1]}", "only one of targetRefs or selector can be set", f"remove {' or '.join(ways)}")
    yield from selector(chosen)
    if one is not None:
        yield from _target(one, "spec.targetRef")
    for index, reference in enumerate(several):
        yield from _target(reference, item("spec.targetRefs", index))


def _target(reference: TargetReference, path: str) -> Iterator[Mistake]:
    if reference.namespace:
        yield Mistake(f"{path}.namespace", "cross namespace referencing is not currently supported")
    group = "" if reference.group == "core" else reference.group
    if (group, reference.kind) not in TARGETS:
        known = [kind for _, kind in TARGETS]
        problem = f"cannot be attached to {reference.group or 'core'}/{reference.kind}"
        yield Mistake(f"{path}.kind", problem, did_you_mean(reference.kind, known) or f"use one of {', '.join(known)}")


def export_to(values: tuple[str, ...], namespace: str, *, service_entry: bool = False) -> Iterator[Mistake]:
    """Namespaces that may see an object: `.`, `*` alone, names; `~` alone for a ServiceEntry."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        place, meant = item("spec.exportTo", index), namespace if value == "." else value
        if meant in seen:
            yield Mistake(place, f'duplicate entries in exportTo: "{value}" is the namespace {meant} again')
        seen.add(meant)
        if value not in {".", "*"} and not (value == "~" and service_entry):
            yield from told(place, formats.label(value))
    for alone, words in (("*", "everybody (*)"), ("~", "nobody (~)")):
        if alone in seen and len(values) > 1:
            yield Mistake("spec.exportTo", f"cannot be exported to {words} and to somebody else")
