"""How long after `meshlib apply` the change is in force in all of Bookinfo's six services.

Everything is real: a control plane, six processes, the command. A PeerAuthentication for the whole namespace changes to and
fro, which concerns every service. `request -> all` begins when the command's request leaves it: the command's API is a tap in
this process that notes the first byte and passes everything on. `command -> all` and `command` begin when the command is
started; most of that is Python starting. Each service tells when the new policy is in force in it.

The control plane's own 100 ms of debounce are in all of it. Exit code 1 if the median of `request -> all` is 200 ms or more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster import CLI, HOST, Cluster, free_port, start_bookinfo

TARGET = 0.2
SERVICES = 6
POLICY = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""


@dataclass(frozen=True)
class Try:
    """Seconds."""

    request_to_all: float
    command_to_all: float
    command: float


class Tap:
    """Passes connections on to a port, and notes when the first byte of the newest one came."""

    def __init__(self, port: int) -> None:
        self.first_byte = 0.0
        self._target = (HOST, port)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink, source is near), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, request: bool) -> None:
        first = request
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if first:
                    self.first_byte, first = time.monotonic(), False
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class Bookinfo:
    """Six services that tell, and a command that is tapped."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder)
        self._told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._told.bind((HOST, 0))
        self._told.settimeout(30)
        self._home = folder / "tapped"

    @contextlib.contextmanager
    def running(self) -> Iterator[Bookinfo]:
        """Everything started and quiet."""
        try:
            self.cluster.start_control_plane()
            site = {"PYTHONPATH": str(Path(__file__).with_name("told")), "BENCH_TELL": str(self._told.getsockname()[1])}
            plain, self.cluster.env = self.cluster.env, self.cluster.env | site
            start_bookinfo(self.cluster, free_port())
            self.cluster.env = plain
            self._tap = Tap(self.cluster.api_port)
            current = json.loads((self.cluster.home / "current.json").read_text())
            self._home.mkdir()
            (self._home / "current.json").write_text(json.dumps(current | {"api": f"http://{HOST}:{self._tap.port}"}))
            yield self
        finally:
            self.cluster.stop()

    def apply(self, mode: str) -> Try:
        """One change, until all have it."""
        command = (*CLI, "apply", "-f", "-")
        began = time.monotonic()
        process = subprocess.Popen(
            command, env=self.cluster.env | {"MESHLIB_HOME": str(self._home)}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert process.stdin is not None
        process.stdin.write(POLICY.format(mode=mode).encode())
        process.stdin.close()
        ended: list[float] = []

        def wait() -> None:
            process.wait()
            ended.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        last = self._all_told(mode)
        waiting.join()
        assert process.returncode == 0
        return Try(last - self._tap.first_byte, last - began, ended[0] - began)

    def _all_told(self, mode: str) -> float:
        """When the last of the services had it."""
        times: dict[str, float] = {}
        while len(times) < SERVICES:
            instance, told, at = self._told.recv(1024).decode().split()
            if told == mode:
                times.setdefault(instance, float(at))
        return max(times.values())


def show(tries: list[Try]) -> bool:
    """Print the table; whether the target is met."""
    print(f"{len(tries)} changes applied with `meshlib apply`, in force in all {SERVICES} services; milliseconds")
    print(f"{'':16} {'median':>8} {'p90':>8} {'worst':>8}")
    for name, values in {
        "request -> all": [each.request_to_all for each in tries],
        "command -> all": [each.command_to_all for each in tries],
        "command": [each.command for each in tries],
    }.items():
        ordered = sorted(value * 1e3 for value in values)
        print(f"{name:16} {statistics.median(ordered):8.0f} {ordered[len(ordered) * 9 // 10]:8.0f} {ordered[-1]:8.0f}")
    median = statistics.median(each.request_to_all for each in tries)
    met = median < TARGET
    print(
        f"{'met' if met else 'MISSED'}: request -> all {median * 1e3:.0f} ms at the median (target: under {TARGET * 1e3:.0f})"
    )
    return met


def main() -> int:
    """Exit code 1 if the target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.push", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=20, help="how many changes (default 20)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Bookinfo(Path(folder)).running() as bookinfo:
        modes = ("STRICT", "PERMISSIVE")
        bookinfo.apply(modes[1])
        tries = []
        for number in range(given.tries):
            time.sleep(0.5)  # quiet again: a burst would share one debounce
            tries.append(bookinfo.apply(modes[number % 2]))
    return 0 if show(tries) else 1


if __name__ == "__main__":
    sys.exit(main())
