"""PeerAuthentication."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.kinds import PeerAuthentication
from meshlib_control.mistakes import Mistake, child
from meshlib_control.model import MeshObject
from meshlib_control.validate.common import rule, selector


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a PeerAuthentication."""
    spec: PeerAuthentication = found.spec
    yield from selector(spec.selector)
    if spec.port_level_mtls and not (spec.selector and spec.selector.match_labels):
        yield Mistake("spec.portLevelMtls", "portLevelMtls requires selector", "select workloads, or use spec.mtls")
    for port in spec.port_level_mtls:
        path = child("spec.portLevelMtls", port)
        if not (port.isascii() and port.isdigit()):
            yield rule(path, f'type conversion error from "{port}" to a port number')
        elif not 0 < int(port) < 65536:
            yield rule(path, "port must be between 1-65535")
