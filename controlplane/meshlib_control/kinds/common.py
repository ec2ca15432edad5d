"""Messages that several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from meshlib_control.kinds.base import LabelValue, NonEmpty, Spec, UInt32

TlsVersion = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class StringMatch(Spec, frozen=True):
    """One comparison; with none of the three set it asks for presence (headers and query parameters)."""

    one_of: ClassVar = (("exact", "prefix", "regex"),)

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class Percent(Spec, frozen=True):
    """0.0 to 100.0."""

    value: float = 0.0


class PortSelector(Spec, frozen=True):
    """A service port by its number."""

    number: UInt32 = 0


class Destination(Spec, frozen=True):
    """Where a route leads: a host of the registry, and optionally a subset of its DestinationRule and a port."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class WorkloadSelector(Spec, frozen=True):
    """Workloads by label, as the networking kinds write it."""

    labels: Mapping[str, LabelValue] = {}


class LabelSelector(Spec, frozen=True):
    """Workloads by label, as the security kinds write it."""

    match_labels: Mapping[str, LabelValue] = {}


class TargetReference(Spec, frozen=True):
    """A resource that a policy is attached to."""

    kind: Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")]
    name: Annotated[str, Meta(min_length=1, max_length=253)]
    group: Annotated[
        str, Meta(max_length=253, pattern=r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    ] = ""
    namespace: str = ""


TargetReferences = Annotated[tuple[TargetReference, ...], Meta(max_length=16)]


class HeaderOperations(Spec, frozen=True):
    """Changes of headers: `set` overwrites, `add` appends, `remove` takes away."""

    set: Mapping[str, str] = {}
    add: Mapping[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Spec, frozen=True):
    """Changes of headers on the way there and back."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class ProviderReference(Spec, frozen=True):
    """An extension provider of the mesh configuration."""

    name: NonEmpty


# google.rpc.Code: the place of a name is its number.
GRPC_STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
