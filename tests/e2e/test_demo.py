"""`meshlib demo bookinfo`, the command that a new user types first."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import CLI, HOST, answers, eventually, free_port

pytestmark = pytest.mark.e2e


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    """Ports that are free now."""
    return ("--port", str(free_port()), "--xds-port", str(free_port()), "--api-port", str(free_port()))


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own."""
    return dict(os.environ) | {"MESHLIB_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def demo(options: tuple[str, ...], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A running demonstration."""
    process = subprocess.Popen(
        (*CLI, "demo", "bookinfo", *options), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process printed up to and with a line that holds `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"ended without {text!r}: {seen}")


def members(home: str) -> list[int]:
    """Processes that were started for the demonstration in this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MESHLIB_HOME={home}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_starts_tells_what_to_try_and_leaves_nothing(
    demo: subprocess.Popen[str], options: tuple[str, ...], env: dict[str, str]
) -> None:
    """The page answers, three commands are printed, Ctrl-C ends everything: no process, no port left."""
    told = read_until(demo, "Ctrl-C stops everything")
    page = f"http://{HOST}:{options[1]}/productpage"
    assert page in told
    assert [line.split("meshlib")[-1].split()[0] for line in told.splitlines() if line.startswith("     ")] == [
        "apply",
        "apply",
        "explain",
    ]
    assert answers(page)

    demo.send_signal(signal.SIGINT)
    assert demo.wait(20) == 0
    eventually(lambda: members(env["MESHLIB_HOME"]) == [], "no process is left")
    for port in options[1::2]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, int(port)))


def test_killed_outright_it_leaves_no_orphan(demo: subprocess.Popen[str], env: dict[str, str]) -> None:
    """Even SIGKILL for the demonstration ends its children."""
    read_until(demo, "Ctrl-C stops everything")
    assert len(members(env["MESHLIB_HOME"])) > 6
    demo.kill()
    eventually(lambda: members(env["MESHLIB_HOME"]) == [], "no process is left")


@pytest.mark.parametrize("option", ["--port", "--xds-port", "--api-port"])
def test_a_port_already_taken(options: tuple[str, ...], env: dict[str, str], option: str) -> None:
    """The answer names the port and the option that chooses another, at once."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        started = time.monotonic()
        arguments = (*CLI, "demo", "bookinfo", *options, option, str(taken))
        result = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert f"Error: port {taken} of {HOST} is taken" in result.stderr
    assert f"{option} {taken + 100}" in result.stderr
    assert time.monotonic() - started < 10


def test_an_unknown_demonstration(env: dict[str, str]) -> None:
    """A wrong name is answered as wrong usage."""
    result = subprocess.run((*CLI, "demo", "petstore"), env=env, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 64
    assert "bookinfo" in result.stderr
    assert json.dumps("petstore")[1:-1] in result.stderr
