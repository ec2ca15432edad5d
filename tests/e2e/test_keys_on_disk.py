"""Where a private key goes, as the kernel sees it: into anonymous memory, and nowhere else."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, eventually, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")]

PROGRAMS = Path(__file__).parent / "programs"
MARK = "PRIVATE KEY"  # of every PEM that holds one
WRITTEN = re.compile(r"^\d+ +(?:write|writev|pwrite64|pwritev2?|sendto|sendmsg)\(\d+<([^>]*)>")
CALLS = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendfile,copy_file_range,splice"


@pytest.fixture
def member(cluster: Cluster, tmp_path: Path) -> Path:
    """What strace wrote about a service that joined, served, and renewed its certificate several times."""
    cluster.start_control_plane()
    cluster.env |= {"MESHLIB_CERTIFICATE_LIFETIME": "2", "NAME": "traced"}
    traced = tmp_path / "trace"
    server = (sys.executable, "-m", "uvicorn", "httpbin:app", "--port", str(free_port()), "--log-level", "warning")
    # Whole texts, the names of files, and only what may write: the rest runs at full speed.
    strace = ("strace", "-f", "-y", "-s", "8192", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(traced))
    command = cluster.run_command("httpbin", server, "--port", "8000", "--instance", "traced")
    cluster.group.start("traced", (*strace, *command), cluster.env, PROGRAMS)
    cluster.wait_until_listed("traced")
    calls = (sys.executable, str(PROGRAMS / "paced.py"), "20", "4", "http://httpbin:8000/")
    cluster.join("caller", "caller", calls)
    seen = {row["certificateExpires"] for row in cluster.ps() if row["name"] == "traced"}

    def renewed() -> bool:
        seen.update(row["certificateExpires"] for row in cluster.ps() if row["name"] == "traced")
        return len(seen) > 3

    eventually(renewed, "three renewals")
    time.sleep(0.5)  # strace writes what it saw a moment later
    return traced


def test_a_key_is_written_into_anonymous_memory_only(cluster: Cluster, member: Path) -> None:
    """Of all writes of all its processes and threads, on files, pipes and sockets; each new key is one of them."""
    lines = [line for line in member.read_text(errors="replace").splitlines() if MARK in line]
    targets = [found[1] for line in lines if (found := WRITTEN.match(line))]
    assert len(targets) == len(lines)  # each line was understood
    assert {re.sub(r"\(deleted\)| ", "", target) for target in targets} == {"/memfd:meshlib"}
    assert len(targets) >= 4


def test_no_file_of_a_member_holds_a_key(cluster: Cluster, member: Path) -> None:
    """Its home with the copy of the configuration, and its log."""
    files = [path for path in (*cluster.home.rglob("*"), *cluster.group.log("traced").parent.rglob("*")) if path.is_file()]
    assert files
    assert [path for path in files if MARK.encode() in path.read_bytes()] == []
