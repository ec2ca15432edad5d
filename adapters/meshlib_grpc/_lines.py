"""Channels of gRPC's core, one for each endpoint (and each generation of our certificate), shared by the calls of one channel.

The core multiplexes calls over one connection, so a line is shared and not lent. Every method *returns* the lines to close;
none touches a channel, none waits, none locks.

Rule 1: a line that showed an older certificate, or whose connection could not be made, gets no further call, and is closed
when its last call has ended. So the next try of a failed connection is a new connection: the core's own back-off, a second
and more, would refuse calls that Envoy would send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshlib.config.model import Cluster, Endpoint
from meshlib.config.snapshot import Destination
from meshlib.runtime.pool import Key

from ._bridge import Bridge

IDLE_SECONDS = 300.0
"""A line that nobody has used for so long is closed when the next new one is made."""

_METHODS = 256  # whoever calls more of one server, a proxy maybe, has them made again

Options = Sequence[tuple[str, Any]]


class Line:
    """A channel to one endpoint.

    Args:
        channel: of `grpc` or `grpc.aio`.
        bridge: what speaks mutual TLS for it; None: plain text.
    """

    __slots__ = ("_callables", "active", "bridge", "channel", "condemned", "key", "used")

    def __init__(self, key: Key, channel: Any, bridge: Bridge | None, now: float) -> None:
        self.key = key
        self.channel = channel
        self.bridge = bridge
        self.active = 0
        self.condemned = False
        self.used = now
        self._callables: dict[tuple[str, str], Any] = {}

    def on_bytes(self, kind: str, path: str) -> Any:
        """The callable for a method whose messages are bytes; made once.

        Args:
            kind: the name of the channel's method that makes it, `unary_unary`.
        """
        found = self._callables.get((kind, path))
        if found is None:
            if len(self._callables) >= _METHODS:
                self._callables.clear()
            found = self._callables[kind, path] = getattr(self.channel, kind)(path)
        return found

    @property
    def secured(self) -> bool:
        """Whether nothing is sent before the endpoint has proved who it is."""
        return self.bridge is not None

    @property
    def principal(self) -> str:
        """The SPIFFE id that the endpoint proved; empty on plain text."""
        return self.bridge.principal if self.bridge is not None else ""

    @property
    def problem(self) -> str:
        """Why there is no connection, in words that the core does not know; empty: it knows better."""
        return self.bridge.problem if self.bridge is not None else ""

    def __repr__(self) -> str:
        state = "condemned" if self.condemned else "open"
        return f"<Line {self.key.address}:{self.key.port} {state} {self.active} active {self.principal or 'plain text'}>"


class Lines:
    """All lines of one channel."""

    def __init__(self) -> None:
        self._lines: dict[Key, Line] = {}
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Lines {list(self._lines.values())}>"

    def __len__(self) -> int:
        return len(self._lines)

    def take(self, key: Key, now: float) -> Line | None:
        """The line for a call, which counts as active until `give`; None: make one and `add` it."""
        line = self._lines.get(key)
        if line is not None:
            line.active += 1
            line.used = now
        return line

    def add(self, line: Line, now: float) -> list[Line]:
        """A new line, active for the call that made it."""
        line.active += 1
        self._lines[line.key] = line
        return self._condemn([other for other in self._lines.values() if not other.active and now - other.used > IDLE_SECONDS])

    def give(self, line: Line, now: float) -> list[Line]:
        """A call ended."""
        line.active -= 1
        line.used = now
        return [line] if line.condemned and not line.active else []

    def condemn(self, line: Line) -> list[Line]:
        """No further call on this line."""
        return self._condemn([line])

    def renew(self, generation: int) -> list[Line]:
        """Our certificate changed."""
        if generation <= self._generation:
            return []
        self._generation = generation
        return self._condemn([line for line in self._lines.values() if 0 < line.key.generation < generation])

    def drain(self) -> list[Line]:
        """Everything, whether it is active or not: the channel closes."""
        lines, self._lines = list(self._lines.values()), {}
        return lines

    def _condemn(self, lines: list[Line]) -> list[Line]:
        for line in lines:
            line.condemned = True
            if self._lines.get(line.key) is line:
                del self._lines[line.key]
        return [line for line in lines if not line.active]


def address_of(endpoint: Endpoint, bridge: Bridge | None) -> str:
    """The target for the core's channel."""
    if bridge is not None:
        return f"unix:{bridge.path}"
    if ":" in endpoint.address:
        return f"ipv6:{endpoint}"
    return f"ipv4:{endpoint}" if endpoint.address.replace(".", "").isdigit() else f"dns:///{endpoint}"


def line_options(cluster: Cluster, authority: str, given: Options) -> list[tuple[str, Any]]:
    """Options of a line.

    Args:
        given: the application's, for its channel.
    """
    return [
        *(pair for pair in given if pair[0] != "grpc.default_authority"),
        ("grpc.default_authority", authority),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a new line is a new connection
        ("grpc.min_reconnect_backoff_ms", max(100, int(cluster.connect_timeout * 1000))),  # the core's connect timeout
    ]


def has_endpoints(destination: Destination) -> bool:
    """Whether somebody can be sent to."""
    given = [group.endpoints for group in destination.assignments.values()]
    given += [group.endpoints for group in destination.clusters.values()]
    return any(endpoint.healthy for endpoints in given for endpoint in endpoints)
