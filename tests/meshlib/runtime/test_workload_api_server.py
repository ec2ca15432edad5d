"""Our Workload API, asked by SPIFFE's own client for Python."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from spiffe import WorkloadApiClient, X509Source, X509Svid
from spiffe.workloadapi.errors import FetchJwtSvidError

from meshlib.config.messages import message
from meshlib.errors import SettingsError
from tests.support.pki import spiffe
from tests.support.waiting import eventually
from tests.support.workload_api import Agent, agent

FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Agent]:
    with agent(tmp_path) as running:
        yield running


def test_a_program_gets_key_certificate_and_roots(served: Agent) -> None:
    """SPIFFE's client accepts the key, the chain and the bundle of our trust domain, and they belong together."""
    identity = served.rotate()
    with WorkloadApiClient(served.endpoint) as client:
        eventually(lambda: _fingerprint(client.fetch_x509_svid()) == identity.leaf.fingerprint, "the newest certificate")
        context = client.fetch_x509_context()
        bundles = client.fetch_x509_bundles()
    svid = context.default_svid
    assert str(svid.spiffe_id) == spiffe("reviews")
    assert svid.private_key.public_key() == svid.leaf.public_key()
    [root] = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain).x509_authorities
    svid.leaf.verify_directly_issued_by(root)
    assert context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain).x509_authorities == {root}


def _fingerprint(svid: X509Svid) -> str:
    return svid.leaf.fingerprint(hashes.SHA256()).hex()


def test_a_rotation_is_pushed(served: Agent) -> None:
    """A source of SPIFFE's client has each new certificate without asking."""
    with X509Source(WorkloadApiClient(served.endpoint), timeout_in_seconds=20) as source:
        for _ in range(3):
            newest = served.rotate().leaf.fingerprint

            def shown() -> str:
                svid = source.get_x509_context().default_svid
                assert svid.private_key.public_key() == svid.leaf.public_key()
                return _fingerprint(svid)

            eventually(lambda newest=newest: shown() == newest, "the pushed certificate")


def test_without_the_security_header(served: Agent) -> None:
    """A request that lacks SPIFFE's metadata is refused with INVALID_ARGUMENT and the reason; `True` is not `true`."""
    with grpc.insecure_channel(f"unix:{served.socket}") as channel:
        fetch = channel.unary_stream(FETCH)
        for metadata in (None, [("workload.spiffe.io", "True")]):
            with pytest.raises(grpc.RpcError) as refused:
                next(fetch(b"", metadata=metadata, timeout=10))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "workload.spiffe.io: true" in refused.value.details()


def test_jwts(served: Agent) -> None:
    """There are no JWT-SVIDs, and the answer says so."""
    with (
        WorkloadApiClient(served.endpoint) as client,
        pytest.raises(FetchJwtSvidError, match="no JWT-SVIDs are given out here"),
    ):
        client.fetch_jwt_svid({"test"}, timeout=10)


def test_a_certificate_that_is_over(served: Agent) -> None:
    """It is given to nobody: UNAVAILABLE, which clients take for a reason to come back."""
    served.rotate(60, datetime.now(UTC) - timedelta(hours=1))
    with grpc.insecure_channel(f"unix:{served.socket}") as channel:

        def answer() -> tuple[grpc.StatusCode, str]:
            try:
                next(channel.unary_stream(FETCH)(b"", metadata=[("workload.spiffe.io", "true")], timeout=10))
            except grpc.RpcError as error:
                return error.code(), error.details()
            return grpc.StatusCode.OK, ""

        eventually(lambda: answer()[0] is grpc.StatusCode.UNAVAILABLE, "refused")
        assert "has expired" in answer()[1]


def test_a_stream_that_is_not_read_does_not_hold_up_others(served: Agent) -> None:
    """A hundred streams that nobody reads cost the next one nothing."""
    with grpc.insecure_channel(f"unix:{served.socket}") as channel:
        fetch = channel.unary_stream(FETCH, response_deserializer=message("X509SVIDResponse").FromString)
        idle = [fetch(b"", metadata=[("workload.spiffe.io", "true")]) for _ in range(100)]
        served.rotate()
        assert next(fetch(b"", metadata=[("workload.spiffe.io", "true")], timeout=10)).svids[0].spiffe_id == spiffe("reviews")
        for call in idle:
            call.cancel()


def test_the_socket_is_for_its_owner(served: Agent) -> None:
    """Mode 0600, and it is gone when serving ends."""
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600
    served.stop()
    assert not served.socket.exists()


def test_the_socket_of_a_group(tmp_path: Path) -> None:
    """Mode 0660, and it is the group's."""
    running = Agent(tmp_path)
    try:
        running.start(group=str(os.getgid()))
        assert stat.S_IMODE(running.socket.stat().st_mode) == 0o660
        assert running.socket.stat().st_gid == os.getgid()
    finally:
        running.close()


CONNECT = """
import os, socket, sys
path, user, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(65534)
os.setuid(int(user))
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
client.connect(path)
client.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0")
print(len(client.recv(9)))
"""


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(socket, "SO_PEERCRED"), reason="only root can become somebody else")
def test_a_stranger_gets_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where the socket's mode was changed: the kernel says who has connected. Members of the group get in."""
    open_folder = Path("/tmp") / f"meshlib-{os.getpid()}-{threading.get_ident()}"
    running = Agent(open_folder)
    try:
        running.start(group="4242")
        running.socket.chmod(0o666)
        open_folder.chmod(0o755)

        def bytes_for(user: int, *groups: int) -> str:
            command = (sys.executable, "-I", "-c", CONNECT, str(running.socket), str(user), *map(str, groups))
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            return done.stdout.strip() or done.stderr

        assert bytes_for(0) == "9"
        assert bytes_for(65534, 4242) == "9"
        assert bytes_for(65534) != "9"
        assert "of user 65534 may not have our identity" in caplog.text
    finally:
        running.close()
        subprocess.run(("rm", "-rf", str(open_folder)), check=True)


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    """Is replaced: nobody listens on it."""
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "agent.sock"))
    with agent(tmp_path) as running, WorkloadApiClient(running.endpoint) as client:
        assert str(client.fetch_x509_svid().spiffe_id) == running.spiffe_id


def test_a_socket_that_somebody_serves(served: Agent, tmp_path: Path) -> None:
    """Is left alone, as is a file that is no socket."""
    second = Agent(tmp_path)
    try:
        with pytest.raises(SettingsError, match="somebody serves there already"):
            second.start()
        second.socket = tmp_path / "file"
        second.socket.write_text("mine")
        with pytest.raises(SettingsError, match="a file is there that is no socket"):
            second.start()
        assert second.socket.read_text() == "mine"
        with pytest.raises(SettingsError, match="no group 'nobody-has-this'"):
            second.start(group="nobody-has-this")
    finally:
        second.close()
    with WorkloadApiClient(served.endpoint) as client:
        assert str(client.fetch_x509_svid().spiffe_id) == served.spiffe_id
