"""What a user of OpenTelemetry sets up: an SDK with an exporter. Here each span becomes a line in the file named by SPANS."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class LineExporter(SpanExporter):
    """Appends; short lines from several processes do not mix."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(os.environ["SPANS"], "a") as file:
            file.writelines(json.dumps(line(span)) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


def line(span: ReadableSpan) -> dict[str, object]:
    """What the test looks at."""
    assert span.context is not None
    return {
        "service": span.resource.attributes["service.name"],
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "span": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "attributes": dict(span.attributes or {}),
    }


if "SPANS" in os.environ:
    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("MESHLIB_SERVICE", "")}))
    provider.add_span_processor(SimpleSpanProcessor(LineExporter()))
    trace.set_tracer_provider(provider)
