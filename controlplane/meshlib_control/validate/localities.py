"""Localities, `region/zone/subzone`, as weights and failover name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshlib_control.mistakes import Mistake


def localities(values: Iterable[str], path: str) -> Iterator[Mistake]:
    """Each is well formed and none overlaps with one before it (Istio: validateLocalities)."""
    seen: list[tuple[str, ...]] = []
    for value in values:
        parts = tuple(value.split("/"))
        if "*" in value[:-1]:
            yield Mistake(path, f'locality "{value}": * may only stand at the end')
        elif not all(parts) or len(parts) > 3:
            yield Mistake(path, f'locality "{value}" must be region, region/zone or region/zone/subzone')
        else:
            scope = parts[: parts.index("*")] if "*" in parts else parts
            if any(_overlap(scope, other) for other in seen):
                yield Mistake(path, f'locality "{value}" overlaps with one before it')
            seen.append(scope)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
