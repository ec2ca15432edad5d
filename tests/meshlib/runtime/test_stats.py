"""The stats server, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlib.errors import SettingsError
from meshlib.facts import Peer, Request
from meshlib.runtime.stats import StatsServer
from meshlib.telemetry import Telemetry, local_workload

# CPython 3.12 and newer warn of forks beside threads; forking servers do so all the same, and so must we.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

TOTAL = "istio_requests_total{"


@pytest.fixture
def port() -> Iterator[int]:
    """A port kept from everybody else: bound but not listening, so that a server that reuses addresses may take it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])


def counted(requests: int) -> Telemetry:
    telemetry = Telemetry(local_workload(service="reviews", namespace="default", labels={"version": "v1"}))
    serve(telemetry, requests)
    return telemetry


def serve(telemetry: Telemetry, requests: int) -> None:
    for _ in range(requests):
        record = telemetry.inbound(Request("GET", "http", "reviews:9080", "/"), Peer())
        record.end(record.event(status=200))
        record.close()


def scrape(port: int, path: str = "/stats/prometheus") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def total(port: int) -> int:
    return sum(int(line.rsplit(" ", 1)[1]) for line in scrape(port).splitlines() if line.startswith(TOTAL))


def eventually(check: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if check():
                return True
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    return False


class Workers:
    """Forked workers of one instance; each counts some requests, serves, and ends when told."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._folder = folder
        self.pids: list[int] = []

    def fork(self, requests: int) -> int:
        told, tell = os.pipe()
        # Before the fork: gRPC, if an earlier test used it, starts threads in the child, which could take the signal.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                stats = StatsServer(f"127.0.0.1:{self._port}", counted(requests).metrics, "reviews", self._folder)
                stats.start()
                os.write(tell, b"1")
                signal.sigwait({signal.SIGTERM})
                stats.close()
                code = 0
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        os.close(tell)
        assert os.read(told, 1) == b"1"
        os.close(told)
        self.pids.append(pid)
        return pid

    def end(self, pid: int, number: int = signal.SIGTERM) -> int:
        os.kill(pid, number)
        self.pids.remove(pid)
        return os.waitpid(pid, 0)[1]


@pytest.fixture
def workers(port: int, tmp_path: Path) -> Iterator[Workers]:
    crew = Workers(port, tmp_path)
    yield crew
    for pid in list(crew.pids):
        crew.end(pid, signal.SIGKILL)


def test_one_process_serves_its_counts_and_a_hint_elsewhere(tmp_path: Path) -> None:
    """A page of Prometheus' text format is at one path; other paths say where."""
    stats = StatsServer("127.0.0.1:0", counted(3).metrics, "one", tmp_path)
    stats.start()
    stats.start()
    try:
        assert total(stats.port) == 3
        with pytest.raises(urllib.error.HTTPError) as refused:
            scrape(stats.port, "/metrics")
        assert refused.value.code == 404
        assert b"/stats/prometheus" in refused.value.read()
        refused.value.close()
    finally:
        stats.close()
        stats.close()
    assert stats.port == 0


def test_workers_are_one_page(workers: Workers, port: int) -> None:
    """Whoever holds the port adds up all workers of the instance, once each."""
    for requests in (1, 10, 100):
        workers.fork(requests)
    assert total(port) == 111
    assert total(port) == 111


def test_another_worker_takes_the_port_when_its_owner_ends(workers: Workers, port: int) -> None:
    """The page comes back by itself, with the counts of the worker that ended."""
    first = workers.fork(1)
    workers.fork(10)
    assert workers.end(first) == 0
    assert eventually(lambda: total(port) == 11)


def test_a_killed_owner_is_replaced(workers: Workers, port: int) -> None:
    """An owner that could not tidy up blocks nobody; its counts are lost."""
    first = workers.fork(1)
    workers.fork(10)
    workers.end(first, signal.SIGKILL)
    assert eventually(lambda: total(port) == 10)


def test_counts_of_ended_workers_stay(workers: Workers, port: int) -> None:
    """Workers come and go; the sum does not fall."""
    workers.fork(1000)
    for requests in (1, 10, 100):
        assert workers.end(workers.fork(requests)) == 0
    assert total(port) == 1111


def test_a_killed_worker_counts_as_it_last_told(workers: Workers, port: int) -> None:
    """The sum does not fall when the kernel or a supervisor kills a worker."""
    workers.fork(1)
    killed = workers.fork(10)
    assert total(port) == 11
    workers.end(killed, signal.SIGKILL)
    workers.fork(100)
    assert [total(port), total(port)] == [111, 111]


def test_all_workers_replaced_at_once_keep_the_counts(workers: Workers, port: int) -> None:
    """A reload that ends the last worker before the next one starts is no new beginning."""
    workers.end(workers.fork(5))
    workers.fork(1)
    assert total(port) == 6


def test_a_later_run_of_the_same_instance_begins_at_zero(workers: Workers, port: int, tmp_path: Path) -> None:
    """Counts left behind long ago belong to another run."""
    workers.end(workers.fork(5))
    for kept in tmp_path.glob("*/ended.json"):
        os.utime(kept, (time.time() - 3600, time.time() - 3600))
    workers.fork(1)
    assert total(port) == 1


def test_a_fork_neither_counts_twice_nor_holds_the_port(tmp_path: Path) -> None:
    """A child of a process that already serves begins at zero and has no copy of the port."""
    telemetry = counted(7)
    stats = StatsServer("127.0.0.1:0", telemetry.metrics, "parent", tmp_path)
    stats.start()
    port = stats.port
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"%d %d" % (len(telemetry.metrics.snapshot()), stats.port))
        signal.pause()
        os._exit(0)
    try:
        assert os.read(told, 10) == b"0 0"
        assert total(port) == 7
        stats.close()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))
            again.listen()
    finally:
        os.close(told)
        os.close(tell)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_broken_file_of_ended_workers_counts_as_none(workers: Workers, port: int, tmp_path: Path) -> None:
    """What cannot be read is as good as absent; the page is served."""
    workers.fork(2)
    (folder,) = tmp_path.iterdir()
    (folder / "ended.json").write_bytes(b"[[")
    assert total(port) == 2


def test_without_a_folder_a_worker_serves_its_own_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk costs a warning and the counts of fellow workers, not the page."""
    (tmp_path / "file").touch()
    stats = StatsServer("127.0.0.1:0", counted(3).metrics, "one", tmp_path / "file")
    stats.start()
    try:
        assert total(stats.port) == 3
    finally:
        stats.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["meshlib"]


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_may_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """Somebody else could tell counts of their own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"meshlib-{os.getuid()}").mkdir()
    (tmp_path / f"meshlib-{os.getuid()}").chmod(mode)
    stats = StatsServer("127.0.0.1:0", counted(3).metrics, "one")
    stats.start()
    try:
        assert total(stats.port) == 3
    finally:
        stats.close()
    assert "is not a private folder of this user" in caplog.text


@pytest.mark.parametrize("address", ["15090", ":15090", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000"])
def test_a_wrong_address_is_answered_with_an_example(address: str, tmp_path: Path) -> None:
    """The error names the variable and what to write."""
    with pytest.raises(SettingsError, match=r"MESHLIB_STATS_ADDRESS=.* write it as 127\.0\.0\.1:15090"):
        StatsServer(address, counted(0).metrics, "x", tmp_path)
