"""Forks of a process that is in the mesh: none of the parent's threads is left, but what it knows about itself is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshlib.config.snapshot import Destination
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from tests.support.destinations import ports
from tests.support.waiting import becomes

# Python 3.12 and newer warn of forks with threads around; that it works is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_child(fact: Callable[[], bool]) -> int:
    """A forked process that ends with 0 if the fact holds there; its id."""
    child = os.fork()
    if child == 0:
        worked = False
        try:
            worked = fact()
        finally:
            os._exit(0 if worked else 1)
    return child


def ended_well(*children: int) -> bool:
    return all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Another thread holds the lock meanwhile."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield
    free.set()
    thread.join()


def test_a_fork_starts_anew(control_plane: Any, mesh: Mesh) -> None:
    """A mesh in use survives a fork on both sides; the child has a stream of its own."""
    control_plane.put_destination("ratings:9080", 1)
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    mesh.resolve("ratings:9080")
    child = in_child(lambda: mesh.destination("ratings:9080") is None and ports(mesh.resolve("ratings:9080", 8)) == [1])
    assert ended_well(child)
    control_plane.put_destination("ratings:9080", 2)
    assert becomes(lambda: ports(mesh.destination("ratings:9080")) == [2])


def test_a_fork_before_use_has_nothing_to_lose(control_plane: Any, settings: Settings) -> None:
    """Prefork: the parent makes the mesh, each worker joins by itself."""
    control_plane.put_destination("ratings:9080", 1)
    mesh = Mesh(settings)

    def work(number: int) -> bool:
        mesh.serve(43210 + number, "127.0.0.1")
        return mesh.ready(8) and isinstance(mesh.resolve("ratings:9080", 8), Destination)

    assert ended_well(in_child(lambda: work(0)), in_child(lambda: work(1)))
    assert {node.id for node in control_plane.nodes} == {"library~127.0.0.1~reviews-v1-0.default~default.svc.cluster.local"}
    assert sorted(ports for ports in control_plane.listed() if ports) == [[43210], [43211]]


def test_a_child_does_not_wait_for_a_thread_of_its_parent(mesh: Mesh) -> None:
    """A certificate may be on its way in while the process forks; the child keeps the identity and renews by itself."""
    assert mesh.ready(10)
    with held(mesh.certificates._changed):
        child = in_child(lambda: bool(mesh.certificates.spiffe_id) and mesh.ready(8))
        assert ended_well(child)
