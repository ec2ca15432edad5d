"""What every spec is made of: strict frozen structs, and the few scalar types that Istio's schemas use.

The types carry the limits of Istio's CustomResourceDefinitions (istio/api, kubernetes/customresourcedefinitions.gen.yaml);
`schema.problems` reads them from here, so a limit is written down once. Attribute names are snake case, JSON names camel case.

Conventions: a message that may be absent is `X | None`, a list is a tuple, an enum is a string out of a Literal. A number or
flag that is `| None` accepts YAML's null (protobuf's wrapper types), nothing else does.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

PORT_RANGE: Final = "port must be between 1-65535"

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=1, le=65535, extra={"problem": PORT_RANGE})]
NonEmpty = Annotated[str, Meta(min_length=1)]
LabelValue = Annotated[str, Meta(max_length=63)]
Percentage = Annotated[float, Meta(ge=0, le=100)]


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The base of every spec and of the messages inside.

    `one_of` lists groups of JSON names of which at most one may be given: protobuf's oneof.
    """

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()


class Duration(float):
    """Seconds, written as `1.5s`, `100ms`, `1m30s`: Go's time.ParseDuration, which Istio's JSON reader uses.

    `minimum` is in seconds; Istio's schemas ask for a millisecond nearly everywhere.
    """

    minimum: ClassVar[float] = 0.001


class DurationOrZero(Duration):
    """A duration where zero has a meaning of its own."""

    minimum: ClassVar[float] = 0.0


_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"([-+]?)((?:{_PART.pattern})+)")


def parse_duration(text: str) -> float:
    """The seconds that `text` means.

    Raises:
        ValueError: not a duration as Go writes it; a bare number has no unit and is none, except `0`.
    """
    if text in {"0", "+0", "-0"}:
        return 0.0
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        raise ValueError(text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(whole[2]))
    return -seconds if whole[1] == "-" else seconds
