"""When a server of ours is listed for others: from its first certificate until it begins to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from meshlib.config.model import PeerMode
from meshlib.runtime import control
from meshlib.runtime.mesh import Mesh
from tests.support.waiting import becomes

POLICY = "xds.istio.io/grpc/lds/inbound/127.0.0.1:43210"


def test_a_server_is_not_listed_before_it_can_do_mutual_tls(control_plane: Any, mesh: Mesh) -> None:
    """Its policy is in force all the time; others hear of the port with the first certificate, and then it is ready."""
    control_plane.put_strict(POLICY)
    control_plane.signing.clear()
    mesh.serve(43210, "127.0.0.1")
    assert becomes(lambda: mesh.inbound.mode is PeerMode.STRICT)
    assert not mesh.ready(0.1)
    assert control_plane.listed() == [[]]
    control_plane.signing.set()
    assert mesh.ready(10)
    assert control_plane.listed() == [[], [43210]]
    assert mesh.inbound.mode is PeerMode.STRICT


def test_with_a_certificate_a_server_is_listed_at_once(control_plane: Any, mesh: Mesh) -> None:
    """One stream is enough."""
    mesh.start()
    assert mesh.ready(10)
    assert becomes(lambda: mesh.telemetry.local.principal)
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    assert control_plane.listed()[-1:] == [[43210]]
    assert control_plane.listed().count([]) == len(control_plane.nodes) - 1


def test_ready_means_that_the_control_plane_has_heard_of_the_port(control_plane: Any, mesh: Mesh) -> None:
    """Not that it once answered for the port, on a stream before."""
    control_plane.signing.clear()
    mesh.serve(43210, "127.0.0.1")
    assert becomes(lambda: POLICY in mesh.snapshot.absent)
    control_plane.silent = True
    control_plane.signing.set()
    assert not mesh.ready(0.5)
    control_plane.silent = False
    control_plane.put_strict(POLICY)
    assert mesh.ready(10)


def test_a_server_that_ends_is_no_longer_listed_and_keeps_its_policy(control_plane: Any, mesh: Mesh) -> None:
    """Others get half a second to move away; meanwhile nothing that was refused is let in."""
    control_plane.put_strict(POLICY)
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    begin = time.monotonic()
    done = mesh.withdraw(43210)
    assert mesh.withdrawn
    assert becomes(lambda: control_plane.listed()[-1] == [])
    assert mesh.inbound.mode is PeerMode.STRICT
    done.result(5)
    assert time.monotonic() - begin > control.DRAIN * 0.9
    assert mesh.inbound.mode is PeerMode.STRICT


def test_a_control_plane_that_does_not_answer_holds_no_server_up_for_long(control_plane: Any, mesh: Mesh) -> None:
    """Who ends waits longer for it, but not until somebody kills it."""
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    control_plane.silent = True
    begin = time.monotonic()
    mesh.withdraw(43210).result(5)
    assert time.monotonic() - begin > control.LONGEST_DRAIN * 0.9


def test_a_server_that_starts_again_is_listed_again(control_plane: Any, mesh: Mesh) -> None:
    """In the same process, at the same port."""
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    mesh.withdraw(43210).result(5)
    mesh.serve(43210, "127.0.0.1")
    assert not mesh.withdrawn
    assert mesh.ready(10)
    assert control_plane.listed()[-2:] == [[], [43210]]


def test_another_certificate_lists_nothing_that_was_withdrawn(control_plane: Any, mesh: Mesh) -> None:
    """The first certificate may come while the server already ends."""
    control_plane.signing.clear()
    mesh.serve(43210, "127.0.0.1")
    assert becomes(lambda: POLICY in mesh.snapshot.absent)
    mesh.withdraw(43210).result(0.4)  # nobody knew of it: nobody has to move away
    control_plane.signing.set()
    assert mesh.certificates.wait(10)
    assert becomes(lambda: mesh.telemetry.local.principal)
    mesh.resolve("ratings:9080")
    assert [43210] not in control_plane.listed()


def test_nothing_to_withdraw(control_plane: Any, mesh: Mesh, make_mesh: Callable[..., Mesh]) -> None:
    """A client, another port, a mesh that is switched off or closed: done at once, and nobody is told to go."""
    for idle in (mesh, make_mesh(enabled=False)):
        assert idle.withdraw(43210).done()
        assert not idle.withdrawn
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    assert mesh.withdraw(15090).done()
    assert not mesh.withdrawn
    assert control_plane.listed()[-1] == [43210]
    ending = mesh.withdraw(43210)
    mesh.close()
    assert ending.done()


def test_a_signal_handler_may_withdraw(mesh: Mesh) -> None:
    """The thread that is interrupted may hold the mesh's lock."""
    mesh.serve(43210, "127.0.0.1")
    assert mesh.ready(10)
    done = []
    with mesh._lock:
        thread = threading.Thread(target=lambda: done.append(mesh.withdraw(43210).result(5)))
        thread.start()
        thread.join(5)
    assert done == [None]
