"""The configuration, in the words of envoyproxy/ratelimit, and which limit it gives a descriptor.

    domain: bookinfo
    descriptors:
      - key: PATH
        value: /productpage
        rate_limit: {unit: minute, requests_per_unit: 1}

Rule 1: each entry of a descriptor goes one level down: to the key with this value, else to a value that ends in `*` and fits,
        else to the key without a value. Where it leads nowhere there is no limit.
Rule 2: the limit of the last entry counts, and none on the way there.
Rule 3: under a key without a value, each value that comes is counted by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from meshlib.config.rate_limit import Entries
from meshlib.errors import SettingsError
from meshlib_control import yaml
from meshlib_control.kinds import Spec, schema
from meshlib_control.kinds.base import UInt32
from meshlib_control.mistakes import InvalidObject, Mistake, line_of

DAY: Final = 86_400
SECONDS: Final[Mapping[str, int]] = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": DAY,
    "week": 7 * DAY,
    "month": 30 * DAY,
    "year": 365 * DAY,
}
"""The windows; they begin at multiples of their length since 1970, as the reference's."""


class _Written(Spec, frozen=True, rename=None):
    """What a file says is in snake case."""


class WrittenLimit(_Written, frozen=True):
    """`rate_limit`."""

    unit: str = ""
    requests_per_unit: UInt32 = 0
    unlimited: bool = False
    name: str = ""


class WrittenDescriptor(_Written, frozen=True):
    """A key, maybe with a value, its limit and what is below it."""

    key: Annotated[str, Meta(min_length=1)]
    value: str = ""
    rate_limit: WrittenLimit | None = None
    descriptors: tuple[WrittenDescriptor, ...] = ()
    shadow_mode: bool = False
    detailed_metric: bool = False


class WrittenDomain(_Written, frozen=True):
    """A file."""

    domain: Annotated[str, Meta(min_length=1)]
    descriptors: tuple[WrittenDescriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in each window.

    Args:
        requests: None: any number.
        unit: a key of SECONDS.
        shadow: counted, but nobody is told that it is too much.
    """

    requests: int | None
    unit: str
    name: str = ""
    shadow: bool = False

    @property
    def window(self) -> int:
        """Seconds."""
        return SECONDS[self.unit]


@dataclass(frozen=True, slots=True)
class _Level:
    """What is known of one key and value: its limit, and the next entry's keys and values."""

    limit: Limit | None = None
    below: Mapping[tuple[str, str], _Level] = field(default_factory=dict)

    def next(self, key: str, value: str) -> _Level | None:
        found = self.below.get((key, value))
        if found is not None:
            return found
        stems = (name for name in self.below if name[0] == key and name[1].endswith("*") and value.startswith(name[1][:-1]))
        return self.below.get(max(stems, key=lambda name: len(name[1]), default=(key, "")))


@dataclass(frozen=True, slots=True)
class Limits:
    """All domains."""

    domains: Mapping[str, _Level] = field(default_factory=dict)

    def find(self, domain: str, entries: Entries) -> Limit | None:
        """The limit of a descriptor; None: it has none."""
        level: _Level | None = self.domains.get(domain)
        for key, value in entries:
            level = level.next(key, value) if level is not None else None
        return level.limit if level is not None else None


def read(folder: Path) -> Limits:
    """The limits in the YAML files of a folder, with those below; hidden ones are left out.

    Raises:
        SettingsError: the folder cannot be read.
        InvalidObject: the first mistake, with file, line and field.
    """
    if not folder.is_dir():
        raise SettingsError(f"there is no folder {folder}")
    domains: dict[str, _Level] = {}
    for document in _documents(folder):
        written = _checked(document)
        if written.domain in domains:
            raise _refusal(document, Mistake("domain", f"the domain {written.domain} is in two files", "join them"))
        domains[written.domain] = _level(None, written.descriptors)
    return Limits(domains)


def _documents(folder: Path) -> Iterator[yaml.Document]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.suffix in {".yaml", ".yml"} and file.is_file() and not any(part.startswith(".") for part in name.parts):
            yield from yaml.load(_text(file), str(name))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidObject(f"cannot be read: {error}", file=str(file)) from error


def _checked(document: yaml.Document) -> WrittenDomain:
    for mistake in schema.mistakes(WrittenDomain, document.data, ""):
        raise _refusal(document, mistake)
    written = schema.build(WrittenDomain, document.data)
    for mistake in _mistakes(written.descriptors, "descriptors"):
        raise _refusal(document, mistake)
    return written


def _refusal(document: yaml.Document, mistake: Mistake) -> InvalidObject:
    line = line_of(document.lines, mistake.field)
    return InvalidObject(mistake.problem, suggestion=mistake.suggestion, field=mistake.field, file=document.file, line=line)


def _mistakes(descriptors: Sequence[WrittenDescriptor], path: str) -> Iterator[Mistake]:
    seen = set[tuple[str, str]]()
    for index, one in enumerate(descriptors):
        place = f"{path}[{index}]"
        if (one.key, one.value) in seen:
            yield Mistake(place, f"{one.key} {one.value}".rstrip() + " is here twice")
        seen.add((one.key, one.value))
        if one.rate_limit is not None:
            yield from _limit_mistakes(one.rate_limit, f"{place}.rate_limit")
        yield from _mistakes(one.descriptors, f"{place}.descriptors")


def _limit_mistakes(limit: WrittenLimit, path: str) -> Iterator[Mistake]:
    if limit.unlimited and limit.unit:
        yield Mistake(f"{path}.unit", "what is unlimited has no unit", "remove one of them")
    elif not limit.unlimited and limit.unit.lower() not in SECONDS:
        yield Mistake(f"{path}.unit", f"invalid rate limit unit '{limit.unit}'", f"use one of {', '.join(SECONDS)}")


def _level(own: WrittenDescriptor | None, below: Iterable[WrittenDescriptor]) -> _Level:
    return _Level(_limit(own), {(one.key, one.value): _level(one, one.descriptors) for one in below})


def _limit(own: WrittenDescriptor | None) -> Limit | None:
    written: Any = own.rate_limit if own is not None else None
    if own is None or written is None:
        return None
    if written.unlimited:
        return Limit(None, "second", written.name)
    return Limit(written.requests_per_unit, written.unit.lower(), written.name, own.shadow_mode)
