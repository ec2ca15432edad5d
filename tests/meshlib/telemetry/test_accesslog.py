"""Istio's access log, line by line."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.errors import SettingsError
from meshlib.facts import Peer
from meshlib.telemetry import Reporter, RequestEvent, Telemetry, Workload, local_workload
from meshlib.telemetry.accesslog import AccessLog, StandardOutput, json_line, text_line

OUTBOUND = RequestEvent(
    Reporter.SOURCE,
    Workload(),
    Workload(),
    "GET",
    "/reviews/0?x=1",
    "reviews:9080",
    "HTTP/1.1",
    200,
    started=1_606_311_661.1379,
    duration=0.0204,
    upstream_duration=0.0196,
    bytes_sent=375,
    route="default",
    cluster="outbound|9080|v2|reviews.default.svc.cluster.local",
    endpoint="10.244.0.21:9080",
    request_id="84961386-6d84-929d-98bd-c5aee93b5c88",
    user_agent="curl/8",
    forwarded_for="10.0.0.1",
    local_address="10.244.0.20:40000",
)
INBOUND = OUTBOUND._replace(
    reporter=Reporter.DESTINATION, endpoint="", cluster="inbound|9080||", peer=Peer("", "10.244.0.20:40000"),
    local_address="10.244.0.21:9080", upstream_duration=None, user_agent="", forwarded_for="",
)  # fmt: skip
FAILED = OUTBOUND._replace(
    status=503, flags="UF", detail="upstream_reset_before_response_started{remote_connection_failure}", bytes_sent=91,
    upstream_duration=None, transport_failure="Connection refused", local_address="",
)  # fmt: skip


REVIEWS = "outbound|9080|v2|reviews.default.svc.cluster.local"
ID = '"84961386-6d84-929d-98bd-c5aee93b5c88"'
GOLDEN = {
    "outbound": (
        '[2020-11-25T13:41:01.137Z] "GET /reviews/0?x=1 HTTP/1.1" 200 - via_upstream - "-" 0 375 20 20 "10.0.0.1" "curl/8" '
        f'{ID} "reviews:9080" "10.244.0.21:9080" {REVIEWS} 10.244.0.20:40000 - - - default'
    ),
    "inbound": (
        '[2020-11-25T13:41:01.137Z] "GET /reviews/0?x=1 HTTP/1.1" 200 - via_upstream - "-" 0 375 20 - "-" "-" '
        f'{ID} "reviews:9080" "-" inbound|9080|| - 10.244.0.21:9080 10.244.0.20:40000 - default'
    ),
    "failed": (
        '[2020-11-25T13:41:01.137Z] "GET /reviews/0?x=1 HTTP/1.1" 503 UF '
        'upstream_reset_before_response_started{remote_connection_failure} - "Connection refused" 0 91 20 - "10.0.0.1" '
        f'"curl/8" {ID} "reviews:9080" "10.244.0.21:9080" {REVIEWS} - - - - default'
    ),
}


@pytest.mark.parametrize(("event", "name"), [(OUTBOUND, "outbound"), (INBOUND, "inbound"), (FAILED, "failed")])
def test_text(event: RequestEvent, name: str) -> None:
    """Istio's default format, field by field; what is not known is a dash."""
    assert text_line(event) == GOLDEN[name]


def test_json() -> None:
    """Istio's keys; numbers are numbers, what is not known is null."""
    assert json.loads(json_line(FAILED)) == {
        "start_time": "2020-11-25T13:41:01.137Z",
        "route_name": "default",
        "method": "GET",
        "path": "/reviews/0?x=1",
        "protocol": "HTTP/1.1",
        "response_code": 503,
        "response_flags": "UF",
        "response_code_details": "upstream_reset_before_response_started{remote_connection_failure}",
        "connection_termination_details": None,
        "bytes_received": 0,
        "bytes_sent": 91,
        "duration": 20,
        "upstream_service_time": None,
        "x_forwarded_for": "10.0.0.1",
        "user_agent": "curl/8",
        "request_id": "84961386-6d84-929d-98bd-c5aee93b5c88",
        "authority": "reviews:9080",
        "upstream_host": "10.244.0.21:9080",
        "upstream_cluster": "outbound|9080|v2|reviews.default.svc.cluster.local",
        "upstream_local_address": None,
        "downstream_local_address": None,
        "downstream_remote_address": None,
        "requested_server_name": None,
        "upstream_transport_failure_reason": "Connection refused",
    }


@given(st.text(), st.text())
def test_a_client_cannot_forge_a_line(path: str, agent: str) -> None:
    """Line ends and quotes are escaped; so are the C1 controls that terminals obey."""
    line = text_line(OUTBOUND._replace(path=path, user_agent=agent))
    assert line.count('"') == text_line(OUTBOUND).count('"')
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert json.loads(json_line(OUTBOUND._replace(path=path)))["path"] == path


def test_a_line_is_one_write() -> None:
    """Workers that share a pipe do not mix their lines."""
    written: list[bytes] = []
    AccessLog("text", written.append)(OUTBOUND._replace(path="/\ud800"))
    (line,) = written
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_it_goes_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever the application does with sys.stdout."""
    telemetry = Telemetry(local_workload(service="reviews", namespace="default"), access_log="json")
    telemetry.tell(OUTBOUND)
    assert json.loads(capfd.readouterr().out)["path"] == "/reviews/0?x=1"


def test_it_is_off_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    """As in Istio."""
    Telemetry(local_workload(service="reviews", namespace="default")).tell(OUTBOUND)
    assert capfd.readouterr().out == ""


def test_a_closed_output_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests go on without their log."""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(descriptor)
    write = StandardOutput(descriptor)
    with caplog.at_level(logging.WARNING):
        write(b"one\n")
        write(b"two\n")
    assert len(caplog.records) == 1


def test_a_full_pipe_does_not_block_requests() -> None:
    """If somebody made standard output non-blocking, what does not fit is dropped."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    write = StandardOutput(writer)
    for _ in range(100):
        write(b"x" * 4096)
    assert len(os.read(reader, 1 << 20)) <= 1 << 16
    write(b"again")
    assert os.read(reader, 100) == b"again"
    os.close(reader)
    os.close(writer)


def test_another_style_is_answered_with_the_choices() -> None:
    """The error names the variable and what may be written."""
    with pytest.raises(SettingsError, match=r"MESHLIB_ACCESS_LOG='xml' is none of off, text, json"):
        AccessLog("xml")
