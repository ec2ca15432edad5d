"""The access log: Istio's default text format and its JSON keys, a line a request, on standard output.

Off by default, as in Istio. Lines are written with one system call each: workers that share a pipe or a file do not mix them,
and none is lost in a buffer when a process is killed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable

from meshlib.errors import SettingsError
from meshlib.telemetry.events import Reporter, RequestEvent

_log = logging.getLogger("meshlib.access")

# A client chooses its path and its headers: it must not be able to begin a line or to close a quoted field.
_FORGERY = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x22, *range(0x7F, 0xA0))}


def text_line(event: RequestEvent) -> str:
    """The event in Istio's default text format, without the line's end.

    What a process cannot know is `-`: there is no downstream connection on the client's side and no upstream one on the
    server's.
    """
    seen = json_fields(event)
    get = {key: "-" if value is None else str(value).translate(_FORGERY) for key, value in seen.items()}.__getitem__
    return (
        f'[{get("start_time")}] "{get("method")} {get("path")} {get("protocol")}" {get("response_code")} '
        f"{get('response_flags')} {get('response_code_details')} {get('connection_termination_details')} "
        f'"{get("upstream_transport_failure_reason")}" {get("bytes_received")} {get("bytes_sent")} {get("duration")} '
        f'{get("upstream_service_time")} "{get("x_forwarded_for")}" "{get("user_agent")}" "{get("request_id")}" '
        f'"{get("authority")}" "{get("upstream_host")}" {get("upstream_cluster")} {get("upstream_local_address")} '
        f"{get('downstream_local_address')} {get('downstream_remote_address')} {get('requested_server_name')} "
        f"{get('route_name')}"
    )


def json_fields(event: RequestEvent) -> dict[str, str | int | None]:
    """The event by Istio's JSON keys; None for what is not known, as Envoy writes `null`."""
    outbound = event.reporter is Reporter.SOURCE
    waited = event.upstream_duration
    return {
        "start_time": _timestamp(event.started),
        "route_name": event.route or None,
        "method": event.method,
        "path": event.path,
        "protocol": event.protocol,
        "response_code": event.status,
        "response_flags": event.flags,
        "response_code_details": event.detail.replace(" ", "_") or None,
        "connection_termination_details": None,
        "bytes_received": event.bytes_received,
        "bytes_sent": event.bytes_sent,
        "duration": round(event.duration * 1000),
        "upstream_service_time": None if waited is None else str(round(waited * 1000)),
        "x_forwarded_for": event.forwarded_for or None,
        "user_agent": event.user_agent or None,
        "request_id": event.request_id or None,
        "authority": event.authority or None,
        "upstream_host": event.endpoint or None,
        "upstream_cluster": event.cluster or None,
        "upstream_local_address": event.local_address or None if outbound else None,
        "downstream_local_address": None if outbound else event.local_address or None,
        "downstream_remote_address": None if outbound else event.peer.address or None,
        "requested_server_name": None,
        "upstream_transport_failure_reason": event.transport_failure or None,
    }


def json_line(event: RequestEvent) -> str:
    """The event as one JSON object."""
    return json.dumps(json_fields(event), separators=(",", ":"))


def _timestamp(seconds: float) -> str:
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


class StandardOutput:
    """Writes to file descriptor 1, whatever the application did with `sys.stdout`; stops with one warning if it is closed."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._open = True

    def __call__(self, data: bytes) -> None:
        while data and self._open:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                return  # somebody made it non-blocking and nobody reads: a request must not wait for a log
            except OSError as error:
                self._open = False
                _log.warning("meshlib: the access log ends, standard output cannot be written: %s", error)


class AccessLog:
    """Writes a line for every finished request; a listener of `Telemetry`.

    Args:
        style: `text` or `json`.
        write: takes a whole line with its end.

    Raises:
        SettingsError: another style.
    """

    def __init__(self, style: str, write: Callable[[bytes], None] | None = None) -> None:
        styles = {"text": text_line, "json": json_line}
        if style not in styles:
            raise SettingsError(f"MESHLIB_ACCESS_LOG={style!r} is none of off, text, json")
        self._line = styles[style]
        self._write = write or StandardOutput()

    def __call__(self, event: RequestEvent) -> None:
        self._write(f"{self._line(event)}\n".encode("utf-8", "backslashreplace"))
