"""Envoy's side: a real one, served by the same control plane, and its access log for what a caller cannot see."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshlib.config.messages import message
from tests.conformance.caller import Answer, Caller
from tests.conformance.cases import Asked
from tests.conformance.echo import CASE, SCRIPT, Arrival
from tests.conformance.seen import Endpoints, Seen
from tests.conformance.verdict import ORIGIN
from tests.support.envoy_sidecar import HOST, Sidecar

SILENCE = 1.0
"""Seconds; twenty times what Envoy keeps entries back."""

LOG_FORMAT = {
    "case": f"%REQ({CASE})%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream": "%UPSTREAM_HOST%",
}


def access_log(path: Path) -> Any:
    """A file access log for a connection manager, as `envoy.config.accesslog.v3.AccessLog`."""
    form = message("envoy.config.core.v3.SubstitutionFormatString")()
    form.json_format.update(LOG_FORMAT)
    # FileAccessLog{path = 1, log_format = 5}, by hand: no product of ours carries this message.
    config = _field(1, str(path).encode()) + _field(5, form.SerializeToString())
    entry = message("envoy.config.accesslog.v3.AccessLog")(name="envoy.access_loggers.file")
    entry.typed_config.type_url = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    entry.typed_config.value = config
    return entry


def trusting(manager: Any) -> None:
    """Make a connection manager count callers with the header `ORIGIN` as internal.

    Rule "orders-of-the-caller": a sidecar as Istio sets it up takes `x-envoy-` orders from nearly nobody; what they mean is to
    be compared all the same.
    """
    manager.internal_address_config.cidr_ranges.add(address_prefix="10.0.0.0", prefix_len={"value": 8})
    # CustomHeaderConfig{header_name = 1, allow_extension_to_set_address_as_trusted = 2}
    detection = manager.original_ip_detection_extensions.add(name="envoy.http.original_ip_detection.custom_header")
    detection.typed_config.type_url = (
        "type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig"
    )
    detection.typed_config.value = _field(1, ORIGIN.encode()) + b"\x10\x01"


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field on the wire."""
    size, length = len(data), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


class Theirs:
    """A running Envoy.

    Args:
        log: its access log.
    """

    def __init__(self, sidecar: Sidecar, log: Path) -> None:
        self.sidecar = sidecar
        self._log = log.open("rb") if log.exists() else None
        self._rest = b""
        self._entries: dict[str, dict[str, Any]] = {}
        self._path = log
        self._caller = Caller()

    def address(self, port: int) -> tuple[str, int]:
        """Where requests to a service port go."""
        return (HOST, self.sidecar.ports[port])

    async def ask(self, asked: Asked, case: str) -> Answer:
        """Send a request."""
        origin = ((ORIGIN, "10.0.0.1"),) if asked.orders else ()
        return await self._caller.ask(self.address(asked.port), asked, ((CASE, case), (SCRIPT, asked.script), *origin))

    async def logged(self, cases: set[str], patience: float = 10.0) -> dict[str, dict[str, Any]]:
        """The access log's entries of these cases, once all are there. Several may wait at once."""
        until = time.monotonic() + patience
        # What Envoy's codec refused has no entry: after a silence nothing more is to come.
        silence = time.monotonic() + SILENCE
        while cases - self._entries.keys() and time.monotonic() < min(until, silence):
            if self._read_log():
                silence = time.monotonic() + SILENCE
            await asyncio.sleep(0.02)
        return {case: self._entries.pop(case) for case in cases & self._entries.keys()}

    def _read_log(self) -> bool:
        """Take what was written since; whether there was something."""
        if self._log is None:
            self._log = self._path.open("rb") if self._path.exists() else None
        *lines, self._rest = (self._rest + (self._log.read() if self._log is not None else b"")).split(b"\n")
        for entry in map(json.loads, lines):
            self._entries[entry["case"]] = entry
        return bool(lines)

    def endpoints(self) -> dict[str, Endpoints]:
        """Address, port and weight of each cluster's endpoints."""
        told = json.loads(self.sidecar.administer("/clusters?format=json"))["cluster_statuses"]
        return {cluster["name"]: frozenset(_endpoint(host) for host in cluster.get("host_statuses", ())) for cluster in told}

    def close(self) -> None:
        """Close the connections to it."""
        self._caller.close()
        if self._log is not None:
            self._log.close()


def _endpoint(host: Mapping[str, Any]) -> tuple[str, int, int]:
    place = host["address"]["socket_address"]
    return place["address"], place["port_value"], host.get("weight", 1)


def seen(answer: Answer, entry: Mapping[str, Any] | None, tries: list[Arrival], endpoints: Mapping[str, Endpoints]) -> Seen:
    """One request's story from the caller's answer, the access log, the upstreams and the clusters."""
    entry = entry or {}
    return Seen(
        answer.status,
        frozenset(flag for flag in (entry.get("flags") or "-").split(",") if flag != "-"),
        entry.get("route") or "",
        entry.get("cluster") or "",
        int(entry.get("attempts") or 0),
        tuple(tries),
        endpoints.get(entry.get("cluster") or "", frozenset()),
        answer.headers,
        answer.body,
        answer.whole,
        note=entry.get("details") or "no entry in the access log",
    )
