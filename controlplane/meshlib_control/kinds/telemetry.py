"""Telemetry (telemetry.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from meshlib_control.kinds.base import Duration, NonEmpty, Percentage, Spec
from meshlib_control.kinds.common import LabelSelector, ProviderReference, TargetReference, TargetReferences

Mode = Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"]
Metric = Literal[
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
]


class ModeMatch(Spec, frozen=True):
    """Which end of a request reports."""

    mode: Mode = "CLIENT_AND_SERVER"


class LiteralTag(Spec, frozen=True):
    """The same text on every span."""

    value: NonEmpty


class NamedTag(Spec, frozen=True):
    """An environment variable or a header on every span."""

    name: NonEmpty
    default_value: str = ""


class CustomTag(Spec, frozen=True):
    """A tag of a span."""

    one_of: ClassVar = (("literal", "environment", "header", "formatter"),)

    literal: LiteralTag | None = None
    environment: NamedTag | None = None
    header: NamedTag | None = None
    formatter: LiteralTag | None = None


class Tracing(Spec, frozen=True):
    """Which requests are traced, and how."""

    match: ModeMatch | None = None
    providers: tuple[ProviderReference, ...] = ()
    random_sampling_percentage: Percentage | None = None
    disable_span_reporting: bool | None = None
    disable_context_propagation: bool | None = None
    enable_istio_tags: bool | None = None
    use_request_id_for_trace_sampling: bool | None = None
    custom_tags: Mapping[str, CustomTag] = {}


class MetricMatch(Spec, frozen=True):
    """A metric of Istio's, or one of somebody else's by name."""

    one_of: ClassVar = (("metric", "customMetric"),)

    metric: Metric | None = None
    custom_metric: NonEmpty | None = None
    mode: Mode = "CLIENT_AND_SERVER"


class TagOverride(Spec, frozen=True):
    """A change of a metric's label; `value` is a CEL expression."""

    operation: Literal["UPSERT", "REMOVE"] = "UPSERT"
    value: str = ""


class MetricsOverride(Spec, frozen=True):
    """Changes of the metrics that match."""

    match: MetricMatch | None = None
    disabled: bool | None = None
    tag_overrides: Mapping[str, TagOverride] = {}


class Metrics(Spec, frozen=True):
    """Which metrics are made, and how."""

    providers: tuple[ProviderReference, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()
    reporting_interval: Duration | None = None


class Filter(Spec, frozen=True):
    """A CEL expression."""

    expression: str = ""


class AccessLogging(Spec, frozen=True):
    """Which requests are logged, and where."""

    match: ModeMatch | None = None
    providers: tuple[ProviderReference, ...] = ()
    disabled: bool | None = None
    filter: Filter | None = None


class Telemetry(Spec, frozen=True):
    """What is told of requests, and to whom."""

    selector: LabelSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: TargetReferences = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
