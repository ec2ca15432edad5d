"""Real processes: the control plane in the foreground, the commands' start-up, programs that are run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.control import REVIEWS_V1

MESHLIB = (sys.executable, "-m", "meshlib_control.cli")
FREE_PORTS = ("--xds-address", "127.0.0.1:0", "--api-address", "127.0.0.1:0")


@contextmanager
def control_plane(*options: str) -> Iterator[subprocess.Popen[str]]:
    """`meshlib controlplane`, once it says that it runs."""
    process = subprocess.Popen(
        [*MESHLIB, "controlplane", *FREE_PORTS, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "The control plane is running." in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def meshlib(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MESHLIB, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)


def current() -> Path:
    return Path(os.environ["MESHLIB_HOME"]) / "current.json"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_control_plane_ends_cleanly_on_a_signal(number):
    """Exit code 0, quickly, and current.json is gone."""
    with control_plane() as process:
        assert json.loads(current().read_text())["api"].startswith("http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert not current().exists()


def test_a_killed_control_plane_comes_back_with_its_objects():
    """kill -9, then a new one on the same folder."""
    with control_plane():
        assert meshlib("apply", "-f", "-", text=REVIEWS_V1).returncode == 0
    with control_plane():
        assert "reviews" in meshlib("get", "vs").stdout


def test_a_taken_port_is_a_failure_with_advice(tmp_path):
    """Exit code 1, two lines, no traceback."""
    with control_plane():
        taken = json.loads(current().read_text())["xds"]
        result = meshlib("controlplane", "--data", str(tmp_path / "b"), "--xds-address", taken, "--api-address", "127.0.0.1:0")
    assert result.returncode == 1
    problem, advice = result.stderr.splitlines()
    assert f"port {taken.split(':')[1]} of 127.0.0.1 is taken by" in problem
    assert "--xds-address" in advice


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_refuses_changes_and_keeps_serving(tmp_path):
    """What was there stays readable; once there is room again, changes are taken."""
    big = REVIEWS_V1.replace("metadata:", f"metadata:\n  annotations: {{note: {'x' * 200_000}}}")
    with control_plane() as process:
        assert meshlib("apply", "-f", "-", text=REVIEWS_V1).returncode == 0
        limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, limits[1]))
        refused = meshlib("apply", "-f", "-", text=big)
        assert refused.returncode == 1
        assert "objects.db" in refused.stderr
        assert refused.stderr.splitlines()[-1].startswith("Try: ")
        assert "reviews" in meshlib("get", "vs").stdout
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        assert meshlib("apply", "-f", "-", text=big).returncode == 0


def test_a_damaged_database_is_a_failure_with_advice(tmp_path):
    """Exit code 1; the file is named."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "objects.db").write_bytes(b"no database" * 500)
    result = meshlib("controlplane", "--data", str(data), *FREE_PORTS)
    assert result.returncode == 1
    assert "objects.db" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Try: ")


def test_a_root_key_that_others_can_read_is_a_failure_with_advice(tmp_path):
    """The secret may be known to them."""
    with control_plane("--data", str(tmp_path / "data")):
        pass
    (tmp_path / "data/ca.json").chmod(0o644)
    result = meshlib("controlplane", "--data", str(tmp_path / "data"), *FREE_PORTS)
    assert result.returncode == 1
    assert "chmod 600" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("controlplane", "--config", "absent"), "--config absent is no folder"),
        (("run",), "which program?"),
        (("run", "--service", "a", "--label", "v1", "--", "true"), "'v1' is no label"),
        (("run", "--port", "70000", "--", "true"), "--port"),
        (("demo", "sockshop"), "no demonstration 'sockshop'"),
        (("demo", "--port", "none"), "--port"),
        (("nonsense",), "nonsense"),
        (("version", "-o", "xml"), "xml"),
    ],
)
def test_wrong_usage_is_64_and_ends_with_advice(arguments, words):
    """Also for what typer itself finds wrong."""
    result = meshlib(*arguments)
    assert (result.returncode, result.stdout) == (64, "")
    assert words in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Try: ")


def test_run_becomes_the_program():
    """Its output, its exit code, and its options are its own."""
    program = "import os, sys; print(sys.argv[1:], os.environ['MESHLIB_SERVICE']); sys.exit(7)"
    result = meshlib("run", "--service", "reviews", "--port", "9080", "--", sys.executable, "-c", program, "--port", "1")
    assert result.returncode == 7
    assert result.stdout == "['--port', '1'] reviews\n"


def test_run_hands_paths_on_whole(tmp_path):
    """The program may change its folder."""
    (tmp_path / "token").write_text("t")
    result = meshlib(
        "run", "--token-file", "token", "--", sys.executable, "-c", "import os; print(os.environ['MESHLIB_TOKEN_FILE'])"
    )
    assert result.stdout.strip() == str(tmp_path / "token")


def test_run_finds_the_control_plane_as_the_other_commands_do():
    """current.json names it; who names one decides."""
    show = "import os; print(os.environ['MESHLIB_CONTROL_PLANE'], os.environ.get('MESHLIB_ROOT_CERT'))"
    with control_plane():
        known = json.loads(current().read_text())
        found = meshlib("run", "--", sys.executable, "-c", show)
        named = meshlib("run", "--control-plane", "127.0.0.1:9", "--", sys.executable, "-c", show)
    assert found.stdout.split() == [known["xds"], known["root_cert"]]
    assert named.stdout.split() == ["127.0.0.1:9", "None"]


def test_help_lists_every_command():
    """On stdout, exit code 0, with and without --help."""
    for arguments in ((), ("--help",), ("-h",)):
        result = meshlib(*arguments)
        assert result.returncode == 0
        for command in (
            "demo",
            "controlplane",
            "run",
            "apply",
            "get",
            "delete",
            "analyze",
            "ps",
            "explain",
            "token",
            "version",
        ):
            assert command in result.stdout


def test_version_answers_in_a_blink():
    """Under 200 ms, the best of three: nothing heavy is imported."""
    taken = []
    for _ in range(3):
        started = time.monotonic()
        result = meshlib("version")
        taken.append(time.monotonic() - started)
    assert result.stdout.startswith("meshlib ")
    assert min(taken) < 0.2


def test_version_as_json():
    """For scripts."""
    data = json.loads(meshlib("version", "-o", "json").stdout)
    assert (data["apiVersion"], data["kind"]) == ("cli.meshlib.dev/v1", "Version")


def test_a_reader_that_leaves_early_is_no_error():
    """meshlib get ... | head."""
    with control_plane():
        objects = "---\n".join(REVIEWS_V1.replace("name: reviews", f"name: reviews-{number}") for number in range(300))
        assert meshlib("apply", "-f", "-", text=objects).returncode == 0
        line = f"{sys.executable} -m meshlib_control.cli get vs -o yaml | head -1; exit ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:80000"])
def test_an_address_that_is_none_is_a_wrong_command_line(meshlib, address):
    """With the option and its form."""
    result = meshlib("controlplane", "--xds-address", address)
    assert (result.code, "--xds-address 127.0.0.1:15012" in result.err) == (64, True)
