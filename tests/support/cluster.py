"""A mesh of real processes for end-to-end tests, driven with the public commands only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshlib_control.demo import bookinfo
from meshlib_control.demo.processes import Group
from tests.support.ports import HOST, free_port
from tests.support.waiting import eventually

CLI = (sys.executable, "-m", "meshlib_control.cli")
REPOSITORY = Path(__file__).parents[2]
CONFORMANCE = REPOSITORY.parent / "shared" / "conformance"


class Cluster:
    """A control plane and services on this machine; everything under one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.data = folder / "controlplane"
        self.xds_port = free_port()
        self.xds_mtls_port = free_port()
        self.api_port = free_port()
        self.group = Group(folder / "logs")
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("MESHLIB_")}
        self.env["MESHLIB_HOME"] = str(self.home)

    def start_control_plane(self, *options: str, name: str = "controlplane", env: Mapping[str, str] | None = None) -> None:
        """Starts it and waits until its API answers."""
        addresses = (
            *("--xds-address", f"{HOST}:{self.xds_port}", "--api-address", f"{HOST}:{self.api_port}"),
            *("--xds-mtls-address", f"{HOST}:{self.xds_mtls_port}"),
        )
        command = (*CLI, "controlplane", "--data", str(self.data), *addresses, *options)
        self.group.start(name, command, self.env | dict(env or {}))
        eventually(lambda: answers(f"http://{HOST}:{self.api_port}/ready"), f"ready; see {self.group.log(name)}")

    def cli(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `meshlib ARGUMENTS`, as a person would in a second terminal."""
        result = subprocess.run(
            (*CLI, *arguments), env=self.env, input=text, capture_output=True, text=True, check=False, timeout=60
        )
        if check:
            assert result.returncode == 0, f"meshlib {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result

    def apply(self, *files: Path) -> None:
        """Applies files and waits until every connected process has acknowledged what follows from them."""
        self.cli("apply", *(part for file in files for part in ("-f", str(file))))
        self.settle()

    def apply_text(self, text: str) -> None:
        """The same for YAML at hand."""
        self.cli("apply", "-f", "-", text=text)
        self.settle()

    def reset(self) -> None:
        """Deletes every object."""
        for item in json.loads(self.cli("get", "all", "-A", "-o", "json").stdout)["items"]:
            metadata = item["metadata"]
            self.cli("delete", item["kind"], metadata["name"], "-n", metadata["namespace"])
        self.settle()

    def ps(self) -> list[dict[str, Any]]:
        """Who is connected."""
        items: list[dict[str, Any]] = json.loads(self.cli("ps", "-o", "json").stdout)["items"]
        return items

    def settle(self) -> None:
        """Waits until nobody has anything outstanding; the control plane waits 100 ms for further changes itself."""
        time.sleep(0.3)
        eventually(lambda: all(row["status"] == "synced" for row in self.ps()), "everybody synced")

    def token(self, account: str, namespace: str = "default", *options: str) -> Path:
        """A join token in a file."""
        path = self.home / "tokens" / f"{namespace}-{account}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.cli("token", "create", "--service-account", account, "-n", namespace, *options).stdout)
        return path

    def run_command(
        self, service: str, command: tuple[str, ...], *options: str, account: str = "", namespace: str = "default"
    ) -> tuple[str, ...]:
        """The `meshlib run` command line that joins a program to this mesh."""
        token = self.token(account or service, namespace)
        return (
            *(*CLI, "run", "--service", service, "--namespace", namespace, "--token-file", str(token)),
            *("--control-plane", f"{HOST}:{self.xds_port}", "--root-cert", str(self.data / "root-cert.pem")),
            *options,
            "--",
            *command,
        )

    def join(
        self,
        name: str,
        service: str,
        command: tuple[str, ...],
        *options: str,
        account: str = "",
        namespace: str = "default",
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Starts a program as a member of the mesh."""
        joined = self.run_command(service, command, "--instance", name, *options, account=account, namespace=namespace)
        self.group.start(name, joined, self.env | dict(env or {}), folder)

    def wait_for(self, *names: str) -> None:
        """Waits until these instances are connected and synced."""

        def connected() -> bool:
            rows = {row["name"]: row["status"] for row in self.ps()}
            return all(rows.get(name) == "synced" for name in names)

        eventually(connected, f"{names} connected; logs in {self.group.log('x').parent}", 40)

    def wait_until_listed(self, *names: str) -> None:
        """Waits until others may be sent to these instances."""

        def listed() -> bool:
            rows = {row["name"]: row["ports"] for row in self.ps()}
            return all(rows.get(name) for name in names)

        eventually(listed, f"{names} listed; logs in {self.group.log('x').parent}", 40)

    def end(self, name: str, number: signal.Signals) -> None:
        """Asks one process to end, and waits until it has."""
        child = self.group._children[name]
        child.send_signal(number)
        child.wait(30)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends one process without asking it."""
        os.killpg(self.group.pids()[name], number)

    def stop(self) -> None:
        """Ends all."""
        self.group.stop()


def answers(url: str) -> bool:
    """Whether a plain GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def start_bookinfo(cluster: Cluster, port: int) -> None:
    """Bookinfo's six processes, as the demonstration starts them."""
    for program in bookinfo.programs(HOST, port):
        options = ("--port", "9080", "--label", f"version={program.version}", "--forward-header", "end-user")
        cluster.join(
            program.name,
            program.service,
            program.command,
            *options,
            account=program.account,
            env=program.env | {"MESHLIB_TRACE_SAMPLING": "100"},
            folder=bookinfo.folder(),
        )
    cluster.wait_for(*(f"{name}-v1" for name in ("productpage", "details", "ratings", "reviews")), "reviews-v2", "reviews-v3")


class Page:
    """What a person would see on productpage."""

    def __init__(self, html: str, seconds: float) -> None:
        self.html = html
        self.seconds = seconds
        self.stars = set(re.findall(r'class="stars (\w*)"', html))
        self.served_by = (re.findall(r'id="podname">([^<]*)<', html) or [""])[0]

    def __contains__(self, text: str) -> bool:
        return text in self.html
