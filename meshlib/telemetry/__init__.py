"""What happened: frozen events, the context that travels, listeners (metrics, access log, OpenTelemetry).

Rule 1: a side (client or server) tells one `RequestEvent` per request; every output is made from it and from nothing else.
Rule 2: nothing here touches a socket. Durations and time come from functions given to `Telemetry`.
Rule 3: an unsampled request costs less than 10 microseconds on each side.
"""

from __future__ import annotations

from meshlib.telemetry.context import Propagation, RequestContext, current
from meshlib.telemetry.events import Listener, Reporter, RequestEvent, Workload
from meshlib.telemetry.records import REMOVED_HEADERS, InboundRecord, OutboundRecord, Telemetry
from meshlib.telemetry.workloads import local_workload

__all__ = [
    "REMOVED_HEADERS",
    "InboundRecord",
    "Listener",
    "OutboundRecord",
    "Propagation",
    "Reporter",
    "RequestContext",
    "RequestEvent",
    "Telemetry",
    "Workload",
    "current",
    "local_workload",
]
