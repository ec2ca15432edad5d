"""With MESHLIB_STRICT the launcher itself asks for a certificate first: a program that could not join is not started.

Asked here and not in the program: most programs join with their first request or server, some never, and gRPC, once used, has
threads that do not survive the program's forks. What gRPC leaves behind here ends with exec.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from meshlib.errors import ControlPlaneError, MeshError, WorkloadApiError
from meshlib.runtime.certificates import Certificates
from meshlib.runtime.identity_source import identity_source
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust

PATIENCE = 10.0
"""Seconds: a control plane that is started together with the program may need some."""


def refusal(
    settings: Settings, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> MeshError | None:
    """Why this machine cannot join the mesh now; None: there was a certificate, which is thrown away."""
    certificates = Certificates()
    trust = Trust(settings.read_root_cert, certificates)
    source = identity_source(settings, certificates, trust, time.time, random.random)
    until = clock() + PATIENCE
    while True:
        wait = source.step()
        if certificates.identity is not None:
            return None
        if not _may_pass(source.problem) or clock() + wait > until:
            return source.problem
        sleep(wait)


def _may_pass(problem: MeshError | None) -> bool:
    """Waiting brings back a control plane or an agent; it makes no credential right."""
    return type(problem) in (ControlPlaneError, WorkloadApiError)
